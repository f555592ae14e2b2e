"""Values of a recipe's parameters: scalars, gradients over layers, and filters on names of tensors."""

from __future__ import annotations

__all__ = ["evaluate", "resolve", "scalars"]

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from tercet.errors import InputError
from tercet.merging.method import REQUIRED, Parameter


def evaluate(setting: Any, tensor: str, t: float, parameter: Parameter, where: str) -> Any:
    """What a setting is worth for one tensor; None where no filter takes it.

    Args:
        setting: a scalar; a list of scalars, the ends and knots of a gradient; {value, filter}, or a list of
            such, of which the first whose filter is in the name counts ("*" or none: any name).
        tensor: the name of the tensor.
        t: where its layer stands, from 0 to 1; between two knots a number is interpolated, anything else is
            that of the knot before.
        parameter: what it is for.
        where: for errors.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        return scalar(setting, parameter, where)
    if not any(isinstance(one, Mapping) for one in setting) and parameter.kind is not str:
        return _gradient([scalar(one, parameter, where) for one in setting], t)
    for one in setting:
        _check_entry(one, parameter, where)
        wanted = one.get("filter")
        if wanted is None or wanted == "*" or (tensor and str(wanted) in tensor):
            return evaluate(one["value"], tensor, t, parameter, where)
    return None


def scalars(setting: Any, parameter: Parameter, where: str) -> Iterator[Any]:
    """Every scalar of a setting that `evaluate` could give for some tensor, in the parameter's own type.

    Raises:
        InputError: one of them, or the form of the setting, does not fit.
    """
    if isinstance(setting, Mapping):
        setting = [setting]
    if not isinstance(setting, list):
        yield scalar(setting, parameter, where)
    elif not any(isinstance(one, Mapping) for one in setting) and parameter.kind is not str:
        for one in setting:
            yield scalar(one, parameter, where)
    else:
        for one in setting:
            _check_entry(one, parameter, where)
            yield from scalars(one["value"], parameter, where)


def _check_entry(one: Any, parameter: Parameter, where: str) -> None:
    if not isinstance(one, Mapping) or set(one) - {"value", "filter"} or "value" not in one:
        raise InputError(
            f"{where}: {parameter.name} has {one!r} in a list with filters. Each entry is {{filter: part "
            "of a name, value: ...}, the last one may leave the filter out."
        )


def resolve(
    parameter: Parameter,
    levels: Iterable[Mapping[str, Any]],
    tensor: str,
    t: float,
    where: str,
    model: str | None = None,
) -> Any:
    """The value by the first level that has one for this tensor, else the default.

    Raises:
        InputError: there is none, and the method cannot do without.
    """
    for level in levels:
        if parameter.name in level:
            value = evaluate(level[parameter.name], tensor, t, parameter, where)
            if value is not None:
                return value
    if parameter.default is REQUIRED:
        of = f" of {model}" if model is not None else ""
        raise InputError(
            f"{where}: there is no {parameter.name} for {tensor}{of}. Set it for the model or in the global "
            "parameters, or add an entry without a filter."
        )
    return parameter.default


def scalar(value: Any, parameter: Parameter, where: str) -> Any:
    """The value in the parameter's own type; YAML reads 1e-3 as text, which is a number all the same."""
    if value is None:
        return None
    if parameter.kind is str and isinstance(value, str) and value:
        return value
    if parameter.kind is bool:
        if isinstance(value, bool):
            return value
        if value in (0, 1):
            return bool(value)
    elif parameter.kind is not str and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if number - number == 0 and (parameter.kind is float or number == int(number)):
            if parameter.least is not None and number < parameter.least:
                raise InputError(
                    f"{where}: {parameter.name} is {value!r}, expected a number from {parameter.least:g}."
                )
            return parameter.kind(number)
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}
    kind = kinds[parameter.kind]
    raise InputError(f"{where}: {parameter.name} is {value!r}, expected {kind}.")


def _gradient(values: list[Any], t: float) -> Any:
    if not values:
        return None
    place = t * (len(values) - 1)
    before = int(place)
    if any(isinstance(value, bool) or value is None for value in values):
        return values[before]
    after = min(len(values) - 1, before + 1)
    part = place - before
    made = (1 - part) * values[before] + part * values[after]
    return int(made) if isinstance(values[0], int) else made
