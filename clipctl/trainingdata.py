"""What `clipctl data check` and `bench` look at: the data of a run.yaml, or a location given on the command line."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from clipctl.contract.errors import SpecError
from clipctl.contract.sections import DataSection

if TYPE_CHECKING:
    from clipctl.contract.spec import RunSpec


@dataclass(frozen=True)
class TrainingData:
    """Data as a run would open them."""

    section: DataSection
    run: RunSpec | None = None
    """The run whose data they are, if they were named by its run.yaml."""

    def to_json(self) -> dict[str, Any]:
        """For the trainer, which reads it as a `DataSection` again."""
        return self.section.model_dump(mode="json")


def training_data(target: str, index: str | None = None) -> TrainingData:
    """Find out what a user means.

    Args:
        target: path of a run.yaml, or anything that `data.train` may be.
        index: name of the index to use.

    Raises:
        SpecError: neither; or the run.yaml is wrong.
        MissingError: there is no such run.yaml.
    """
    run = None
    if target.endswith((".yaml", ".yml")):
        from clipctl.specfile import load_spec

        run = load_spec(target)
        values = run.data.model_dump(mode="json")
    else:
        values = {"train": target}
    if index is not None:
        values["index"] = index
    try:
        return TrainingData(DataSection.model_validate(values), run)
    except ValidationError as error:
        first = error.errors()[0]
        problem = first["msg"].removeprefix("Value error, ")
        raise SpecError(f"{target}: {problem}.", hint="Give what data.train of a run.yaml may be.") from None
