"""Workitems for tests: what a scheduler of AI jobs sends."""

from typing import Any

Dataset = dict[str, Any]

UPS_STATE, TRANSACTION_UID = "00741000", "00081195"


def code(value: str, meaning: str = "meaning") -> Dataset:
    """An item of a code sequence."""
    return {
        "00080100": {"vr": "SH", "Value": [value]},
        "00080102": {"vr": "SH", "Value": ["99ANOR"]},
        "00080104": {"vr": "LO", "Value": [meaning]},
    }


def workitem(**replaced: Any) -> Dataset:
    """A complete N-CREATE dataset (PS3.4 table CC.2.5-3); `t00741204="..."` replaces a value, None removes."""
    dataset: Dataset = {
        "00081080": {"vr": "LO"},
        "00081084": {"vr": "SQ"},
        "00100010": {"vr": "PN", "Value": [{"Alphabetic": "Doe^Jane"}]},
        "00100020": {"vr": "LO", "Value": ["P-1"]},
        "00100021": {"vr": "LO"},
        "00100024": {"vr": "SQ"},
        "00100030": {"vr": "DA", "Value": ["19700101"]},
        "00100040": {"vr": "CS", "Value": ["F"]},
        "00101002": {"vr": "SQ"},
        "0020000D": {"vr": "UI", "Value": ["1.2.3.4"]},
        "00380010": {"vr": "LO"},
        "00380014": {"vr": "SQ"},
        "00400400": {"vr": "LT"},
        "00404005": {"vr": "DT", "Value": ["20260114103000"]},
        "00404018": {"vr": "SQ", "Value": [code("LUNG-NODULES")]},
        "00404021": {"vr": "SQ"},
        "00404025": {"vr": "SQ"},
        "00404026": {"vr": "SQ"},
        "00404027": {"vr": "SQ"},
        "00404041": {"vr": "CS", "Value": ["READY"]},
        "0040A370": {"vr": "SQ"},
        "00741000": {"vr": "CS", "Value": ["SCHEDULED"]},
        "00741002": {"vr": "SQ"},
        "00741200": {"vr": "CS", "Value": ["MEDIUM"]},
        "00741202": {"vr": "LO", "Value": ["AI"]},
        "00741204": {"vr": "LO", "Value": ["Find nodules"]},
        "00741210": {"vr": "SQ"},
        "00741216": {"vr": "SQ"},
    }
    for name, value in replaced.items():
        tag = name.removeprefix("t")
        if value is None:
            dataset.pop(tag, None)
        elif isinstance(value, dict):
            dataset[tag] = value
        else:
            dataset[tag] = {**dataset.get(tag, {"vr": "LO"}), "Value": value if isinstance(value, list) else [value]}
    return dataset


def to_state(state: str, transaction_uid: str | None) -> Dataset:
    """The body of a state change."""
    body: Dataset = {UPS_STATE: {"vr": "CS", "Value": [state]}}
    return body if transaction_uid is None else body | {TRANSACTION_UID: {"vr": "UI", "Value": [transaction_uid]}}


def performed(**replaced: Any) -> Dataset:
    """What completes a step: all of final state code P."""
    item = {
        "00404028": {"vr": "SQ", "Value": [code("GPU-1")]},
        "00404019": {"vr": "SQ", "Value": [code("LUNG-NODULES")]},
        "00404050": {"vr": "DT", "Value": ["20260114103100"]},
        "00404051": {"vr": "DT", "Value": ["20260114103200"]},
        "00404033": {"vr": "SQ"},
    }
    for name, value in replaced.items():
        item.pop(name.removeprefix("t")) if value is None else item.update({name.removeprefix("t"): value})
    return {"00741216": {"vr": "SQ", "Value": [item]}}


def discontinued() -> Dataset:
    """What a performer says before it cancels: final state code X."""
    return {"00741002": {"vr": "SQ", "Value": [{"0074100E": {"vr": "SQ", "Value": [code("110514")]}}]}}


def progress(percent: int) -> Dataset:
    """A report of progress."""
    return {"00741002": {"vr": "SQ", "Value": [{"00741004": {"vr": "DS", "Value": [str(percent)]}}]}}
