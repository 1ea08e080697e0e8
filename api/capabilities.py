"""The capability description of the DICOMweb service (PS3.18 8.9, annex H): WADL, made from the route table alone."""

from collections.abc import Iterable
from typing import Final
from xml.etree import ElementTree as ET

from api.routing import Operation, Parameter, split_path

WADL: Final = "application/vnd.sun.wadl+xml"

_BESIDE: Final = "WADO-URI"
_NAMESPACE: Final = "http://wadl.dev.java.net/2009/02"


def describe(operations: Iterable[Operation], root: str, base: str) -> bytes:
    """Every operation under the DICOMweb root, whose absolute URL is `base`, and WADO-URI, which lies beside it."""
    ET.register_namespace("", _NAMESPACE)
    application = ET.Element(_tag("application"))
    prefix = split_path(root)
    under, beside = [], []
    for operation in operations:
        segments = split_path(operation.at(root))
        if segments[: len(prefix)] == prefix:
            under.append((tuple(segments[len(prefix) :]), operation))
        elif operation.tag == _BESIDE:
            beside.append((tuple(segments), operation))
    for url, found in ((base.rstrip("/"), under), (base.rstrip("/").removesuffix(root), beside)):
        nodes: dict[tuple[str, ...], ET.Element] = {(): ET.SubElement(application, _tag("resources"), base=url + "/")}
        for place, operation in found:
            _method(_resource(nodes, place), operation)
    return bytes(ET.tostring(application, encoding="utf-8", xml_declaration=True))


def _tag(name: str) -> str:
    return f"{{{_NAMESPACE}}}{name}"


def _resource(nodes: dict[tuple[str, ...], ET.Element], segments: tuple[str, ...]) -> ET.Element:
    """The element of a path, nested in those of its parents."""
    node = nodes.get(segments)
    if node is None:
        parent = _resource(nodes, segments[:-1])
        segment = segments[-1].replace(":path}", "}")
        node = nodes[segments] = ET.SubElement(parent, _tag("resource"), path=segment)
        if segment.startswith("{"):
            ET.SubElement(node, _tag("param"), name=segment[1:-1], style="template", required="true")
    return node


def _method(resource: ET.Element, operation: Operation) -> None:
    name = "".join(word.capitalize() for word in operation.summary.replace(",", " ").split())
    method = ET.SubElement(resource, _tag("method"), name=operation.method, id=name)
    request = ET.SubElement(method, _tag("request"))
    for parameter in operation.all_parameters:
        _parameter(request, parameter)
    for content in operation.body:
        ET.SubElement(request, _tag("representation"), mediaType=content.media_type)
    for answer in operation.answers:
        response = ET.SubElement(method, _tag("response"), status=str(answer.status))
        for content in answer.contents:
            ET.SubElement(response, _tag("representation"), mediaType=content.media_type)


def _parameter(request: ET.Element, parameter: Parameter) -> None:
    if parameter.where != "path":
        style = {"query": "query", "header": "header"}[parameter.where]
        required = str(parameter.required).lower()
        ET.SubElement(request, _tag("param"), name=parameter.name, style=style, required=required)
