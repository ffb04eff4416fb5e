"""Checking of YAML against a JSON schema, with messages a user can act on."""

import math
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError, best_match
from jsonschema.validators import extend

from avsm.errors import UserError, nearest

SCHEMAS = Path(__file__).parent / "schemas"


def _is_number(_: object, value: object) -> bool:
    finite = isinstance(value, int) or (isinstance(value, float) and math.isfinite(value))
    return finite and not isinstance(value, bool)


def _is_integer(_: object, value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


# JSON's integers include 20.0, which is no index; its numbers do not include .inf and .nan.
TYPES = {"number": _is_number, "integer": _is_integer}
Validator = extend(
    Draft202012Validator, type_checker=Draft202012Validator.TYPE_CHECKER.redefine_many(TYPES)
)


class _Loader(yaml.SafeLoader):
    """YAML in which a key comes once; PyYAML, and Snakemake, take the last without a word."""

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line, name = key.start_mark.line + 1, f"{key.tag} {key.value}"
            if name in lines:
                raise UserError(
                    f"{self.name}: key '{key.value}' in line {lines[name]}, and again in line "
                    f"{line}; expected once"
                )
            lines[name] = line
        return node


def read_yaml(path: Path) -> Any:
    """Read a YAML file; a `UserError` says where it is none, or has a key twice."""
    try:
        with path.open(encoding="utf-8-sig") as stream:
            return yaml.load(stream, _Loader)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected YAML in UTF-8: {error}") from error


def load_schema(name: str) -> dict[str, Any]:
    """Return a schema of `workflow/schemas/` by file name."""
    return read_yaml(SCHEMAS / name)


def with_defaults(value: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return an object with the defaults of its schema, those of objects inside it as well."""
    rules = schema.get("properties", {})
    filled = {key: rule["default"] for key, rule in rules.items() if "default" in rule} | value
    return {
        key: with_defaults(entry, rules.get(key, {})) if isinstance(entry, dict) else entry
        for key, entry in filled.items()
    }


def faults(value: Any, schema: dict[str, Any], where: str) -> list[str]:
    """Return one message for each violation of `schema` by `value`; `where` names its origin."""
    errors = sorted(Validator(schema).iter_errors(value), key=lambda e: list(e.path))
    return [line for error in errors for line in _lines(error, where)]


def _lines(error: ValidationError, where: str) -> list[str]:
    """Describe one violation; unknown keys give a line each."""
    place = _place(error, where)
    if error.validator == "additionalProperties":
        known = list(error.schema.get("properties", {}))
        unknown = [key for key in error.instance if key not in known]
        return [
            f"{place}: unknown key '{key}'{nearest(key, known)}; known: {', '.join(known)}"
            for key in unknown
        ]
    if error.validator == "required":
        missing = [key for key in error.validator_value if key not in error.instance]
        # jsonschema reports each missing key alone; the message starts with its name.
        return [f"{place}: key '{key}' is missing" for key in missing if repr(key) in error.message]
    deepest = best_match([error]) or error
    hint = ""
    if isinstance(deepest.instance, str) and error.validator in ("type", "anyOf"):
        hint = " (a nested value given by --config arrives as text: put it in a file)"
    return [f"{_place(deepest, where)}: found {deepest.instance!r}, {_expected(deepest)}{hint}"]


def _place(error: ValidationError, where: str) -> str:
    """Return `file: key.key[index]`."""
    path = ""
    for part in error.absolute_path:
        path += f"[{part}]" if isinstance(part, int) else f".{part}" if path else str(part)
    return f"{where}: {path}" if path else where


EXPECTED = {
    "type": "expected {}",
    "enum": "expected one of {}",
    "const": "expected {}",
    "minimum": "expected at least {}",
    "maximum": "expected at most {}",
    "exclusiveMinimum": "expected more than {}",
    "minItems": "expected at least {} entries",
    "maxItems": "expected at most {} entries",
    "uniqueItems": "expected no entry twice",
    "pattern": "expected text that matches {}",
}


def _expected(error: ValidationError) -> str:
    """Say what the schema wants in plain words."""
    rule, value = error.validator, error.validator_value
    if rule == "anyOf":
        branches = dict.fromkeys(_expected(branch) for branch in error.context)
        return "expected " + " or ".join(text.removeprefix("expected ") for text in branches)
    if rule not in EXPECTED:
        return error.message
    listed = ", ".join(map(str, value)) if isinstance(value, list) else value
    if rule == "type":
        listed = listed.replace("number", "finite number")
    hint = nearest(error.instance, value) if rule == "enum" else ""
    return EXPECTED[rule].format(listed) + hint
