"""Tool calls and tool schemas in OpenAI's form, from the several forms that data sets keep them in."""

from __future__ import annotations

import json
from typing import Any

from finetune.data.faults import RowFault, described

CALL_HINT = 'a tool call is {"name": ..., "arguments": {...}}, as JSON'
SCHEMA_HINT = 'tools is a list of {"name": ..., "description": ..., "parameters": {...}}, or that list as JSON text'


def tool_calls(value: Any) -> list[dict[str, Any]]:
    """Calls as `{"type": "function", "function": {"name", "arguments": dict}}`, with `id` where there is one.

    `value` is one call or a list of them, parsed or as JSON text, bare or already in OpenAI's form.
    Raises RowFault.
    """
    value = _parsed(value, "a tool call", CALL_HINT)
    return [_call(call) for call in (value if isinstance(value, list) else [value])]


def tool_schemas(value: Any) -> list[dict[str, Any]] | None:
    """Schemas as `{"type": "function", "function": {...}}` from a list or its JSON text; None where there are none.

    Raises RowFault.
    """
    if value is None or value == "":
        return None
    value = _parsed(value, "a tools column", SCHEMA_HINT)
    if not isinstance(value, list):
        raise RowFault("a tools column that cannot be read", SCHEMA_HINT, f"{described(value)}, not a list")
    return [_schema(schema) for schema in value] or None


def _call(value: Any) -> dict[str, Any]:
    value = _parsed(value, "a tool call", CALL_HINT)
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowFault("a tool call that cannot be read", CALL_HINT, "no name")
    arguments = function.get("arguments")
    # No arguments are written as null, as empty text or as {}.
    arguments = _parsed(arguments, "a tool call", CALL_HINT) if arguments not in (None, "") else {}
    if not isinstance(arguments, dict):
        raise RowFault(
            "a tool call that cannot be read", CALL_HINT, f"arguments are {described(arguments)}, not an object"
        )
    identity = {"id": value["id"]} if isinstance(value.get("id"), str) else {}
    return {**identity, "type": "function", "function": {"name": function["name"], "arguments": arguments}}


def _schema(value: Any) -> dict[str, Any]:
    function = value.get("function", value) if isinstance(value, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise RowFault("a tools column that cannot be read", SCHEMA_HINT, "a tool without a name")
    return {"type": "function", "function": function}


def _parsed(value: Any, noun: str, hint: str) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        reason = f"{error.msg} at character {error.pos + 1}" if isinstance(error, json.JSONDecodeError) else "no JSON"
        raise RowFault(f"{noun} that cannot be read", hint, reason) from None
