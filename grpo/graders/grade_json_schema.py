"""1 where the answer is JSON that a schema accepts, 0 elsewhere; a Markdown fence around it is taken off.

options: schema (default: the row's ``schema`` field, else its reference), fenced (true), equals (false; true asks for
the reference's very value, not a schema's), field (of an object reference)
"""

import json

from jsonschema import Draft202012Validator, SchemaError
from jsonschema.validators import validator_for

from contract import answer, batch, options, without_fence

SETTINGS = options({"schema": None, "fenced": True, "equals": False, "field": None})
WORDS = {"type", "properties", "required", "enum", "const", "items", "anyOf", "allOf", "oneOf", "not", "$ref", "if"}
WORDS |= {"pattern", "minimum", "maximum", "minLength", "maxLength", "additionalProperties", "patternProperties"}


def no_number(name):
    raise ValueError(f"{name} is no JSON value")


def decode(text):
    return json.loads(text, parse_constant=no_number)


def referred(sample):
    """The reference answer: of an object the named field; one of text alone is what was a text in the file."""
    value = sample.get("reference_answer")
    if SETTINGS["field"]:
        if not isinstance(value, dict) or SETTINGS["field"] not in value:
            raise ValueError(f"reference_answer has no field {SETTINGS['field']}")
        return value[SETTINGS["field"]]
    return value["text"] if isinstance(value, dict) and set(value) == {"text"} else value


def schema_of(sample):
    schema = SETTINGS["schema"] or sample["metadata"].get("schema") or referred(sample)
    schema = decode(schema) if isinstance(schema, str) else schema
    if not isinstance(schema, bool) and not (isinstance(schema, dict) and WORDS & set(schema)):
        raise ValueError("the schema has no word of JSON Schema in it; a value to be equal to needs equals = true")
    try:
        kind = validator_for(schema, default=Draft202012Validator)
        kind.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"no valid schema: {error.message[:200]}") from None
    return kind(schema)


def written(sample):
    """The answer's value. Raises ValueError, RecursionError."""
    text = answer(sample)
    try:
        return decode(text)
    except ValueError:
        if not SETTINGS["fenced"]:
            raise
    return decode(without_fence(text, "json"))


def score(sample):
    wanted = referred(sample) if SETTINGS["equals"] else schema_of(sample)
    if SETTINGS["equals"] and wanted is None:
        raise ValueError("this row has no reference_answer, which the grader compares with")
    try:
        value = written(sample)
    except (ValueError, RecursionError):
        return 0.0
    if not SETTINGS["equals"]:
        return wanted.is_valid(value)
    return json.dumps(value, sort_keys=True) in {json.dumps(w, sort_keys=True) for w in alternatives(wanted)}


def alternatives(wanted):
    """A text may be the value itself, or JSON for it."""
    yield wanted
    if isinstance(wanted, str):
        try:
            yield decode(wanted)
        except ValueError:
            return


def lambda_handler(event, context):
    return batch(score, event)
