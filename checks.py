"""Checks of config values. Each raises a UserError that names the key, the value and a valid one."""

import difflib
import math
import types
import typing
import unicodedata

from tools import UserError


def _has_control_characters(text):
    return any(unicodedata.category(letter) == "Cc" for letter in text)


def _type_name(annotation):
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else [annotation]
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word",
             type(None): "null", list[int]: "a list of whole numbers", list[float]: "a list of numbers",
             list[str]: "a list of words"}
    return " or ".join(names[option] for option in options)


def _convert(value, kind):
    """Returns value as kind, or None if it has another kind. YAML reads 3e-4 as text; this does not."""
    if kind in (list[int], list[float], list[str]):
        if not isinstance(value, (list, tuple)) or not value:
            return None
        items = [_convert(item, typing.get_args(kind)[0]) for item in value]
        return None if None in items else items
    if isinstance(value, bool) or kind is bool:
        return value if isinstance(value, bool) and kind is bool else None
    if kind is float:
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None
    return value if isinstance(value, kind) else None


def show(value):
    """A value for a message: as Python writes it, but shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits.
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else f"{text[:40]}...{text[-20:]}"


def check_value(field, value):
    """Returns the value of a key in its type. Raises UserError if it is not valid."""
    annotation, limits = field.type, field.metadata["limits"]
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else [annotation]
    if value is None:
        if type(None) in options:
            return None
        if field.default is None:
            raise UserError(f"{field.name}: missing; set it to one of {', '.join(limits['choices'])}")
    converted = [_convert(value, kind) for kind in options if kind is not type(None)]
    converted = [item for item in converted if item is not None]
    if not converted:
        quotes = "; text that reads as something else stands in quotes" if str in options else ""
        raise UserError(f"{field.name}: {show(value)} is not {_type_name(annotation)} "
                        f"(default: {field.default!r}){quotes}")
    value = converted[0]
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, str) and (not item.strip() or _has_control_characters(item)):
            raise UserError(f"{field.name}: {show(item)} is empty or holds a control character")
    choices = limits.get("choices")
    if choices and not isinstance(value, bool) and value not in choices:
        near = nearest(value, choices) if isinstance(value, str) else min(
            choices, key=lambda choice: abs(choice - value))
        raise UserError(f"{field.name}: {show(value)} is not one of {', '.join(map(str, choices))}; "
                        f"nearest: {near}")
    for item in value if isinstance(value, list) else [value]:
        if isinstance(item, (bool, str)):
            continue
        if "above" in limits and not item > limits["above"]:
            raise UserError(f"{field.name}: {item} must be above {limits['above']} "
                            f"(default: {field.default})")
        widest = 2**31 - 1 if isinstance(item, int) else 1e38
        low, high = limits.get("min", -widest), limits.get("max", widest)
        if not low <= item <= high:
            near = low if item < low else high
            raise UserError(f"{field.name}: {show(item)} is out of range; nearest: {near}")
    return value


def nearest(word, words):
    """The entry of words that is most like word."""
    return max(words, key=lambda w: difflib.SequenceMatcher(None, str(word).lower(), w).ratio())


def check_use_obs(use_obs, levels):
    """Returns one bool per level, from the bottom, as a tuple. Raises UserError for any other form."""
    if isinstance(use_obs, bool):
        return (use_obs,) * levels
    if set(use_obs.upper()) - set("TF") or len(use_obs) != levels:
        raise UserError(f"use_obs: {show(use_obs)} is not true, false, or {levels} letters T or F, "
                        f"one per level from the bottom (such as {'T' * (levels - 1) + 'F'})")
    return tuple(letter == "T" for letter in use_obs.upper())


def is_layout(axes):
    """Whether a word names the axes of an array of video."""
    return set("THW") <= set(axes) <= set("NTHWC") and len(set(axes)) == len(axes)


def check_open_loop(context, seq_len, stride, length_key="seq_len"):
    """Raises UserError unless context is a multiple of the top level's stride, and below seq_len."""
    if context % stride or not context:
        near = max(stride, round(context / stride) * stride)
        raise UserError(f"open_loop_ctx: {context} is not a multiple of {stride}, the frames to one "
                        f"tick of the top level; nearest: {near}")
    if context >= seq_len:
        near = (seq_len - 1) // stride * stride
        raise UserError(
            f"open_loop_ctx: {context} leaves nothing to predict of {length_key} {seq_len}; "
            + (f"nearest: {near}" if near else f"{length_key} must be above {stride}"))
