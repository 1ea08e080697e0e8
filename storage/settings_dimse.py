"""Settings of the DIMSE side; `settings_model.Settings` has them all."""

from dataclasses import dataclass, field

from storage.settings_about import about


@dataclass(frozen=True, slots=True)
class DimseSettings:
    """What can be set for associations with other application entities."""

    dimse_open: str = field(
        default="echo,store,find",
        metadata=about(
            "DIMSE",
            "What application entities may do that are not declared: of echo, store, find, get, move, worklist, mpps"
            " and commitment.",
            check="permissions",
        ),
    )
    dimse_check_host: bool = field(
        default=True,
        metadata=about("DIMSE", "Whether a declared application entity has to call from its declared host."),
    )
