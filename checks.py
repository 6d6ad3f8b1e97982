"""Checks of config values. Each raises a UserError that names the key, the value and a valid one."""

import difflib
import math
import typing
import unicodedata

from tools import UserError

KINDS = {int: "a whole number", float: "a number", bool: "true or false", str: "a word",
         type(None): "null", list[int]: "a list of whole numbers", list[float]: "a list of numbers",
         list[str]: "a list of words"}


def kinds_of(field):
    """The types that the values of a key may have, some of KINDS."""
    return typing.get_args(field.type) or (field.type,)


def _convert(value, kind):
    """Returns value as kind, or None if it has another kind. YAML reads 3e-4 as text; this does not."""
    if typing.get_origin(kind) is list:
        if not isinstance(value, (list, tuple)) or not value:
            return None
        items = [_convert(item, typing.get_args(kind)[0]) for item in value]
        return None if None in items else items
    if kind is float and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            return None
        return number if math.isfinite(number) else None
    return value if isinstance(value, kind) and isinstance(value, bool) == (kind is bool) else None


def show(value):
    """A value for a message: as Python writes it, but shortened if it is long."""
    try:
        text = repr(value)
    except ValueError:  # Python writes no integer of more than 4,300 digits.
        return "an integer of thousands of digits"
    return text if len(text) <= 80 else f"{text[:40]}...{text[-20:]}"


def check_value(field, value):
    """Returns the value of a key in its type. Raises UserError if it is not valid."""
    kinds, limits = kinds_of(field), field.metadata["limits"]
    if value is None:
        if type(None) in kinds:
            return None
        if field.default is None:
            raise UserError(f"{field.name}: missing; set it to one of {', '.join(limits['choices'])}")
    converted = [item for kind in kinds if (item := _convert(value, kind)) is not None]
    if not converted:
        quotes = "; put text that looks like a number or a yes in quotes" if str in kinds else ""
        raise UserError(f"{field.name}: {show(value)} is not {' or '.join(map(KINDS.get, kinds))} "
                        f"(default: {field.default!r}){quotes}")
    for item in converted[0] if isinstance(converted[0], list) else converted[:1]:
        if not isinstance(item, bool):
            _check_item(field, item)
    return converted[0]


def _check_item(field, item):
    """Raises UserError if a number or a word is not within the limits of a key."""
    limits = field.metadata["limits"]
    choices = limits.get("choices", [item])
    if isinstance(item, str) and (
            not item.strip() or any(unicodedata.category(letter) == "Cc" for letter in item)):
        raise UserError(f"{field.name}: {show(item)} is empty or holds a control character")
    if item not in choices:
        near = nearest(item, choices) if isinstance(item, str) else min(
            choices, key=lambda choice: abs(choice - item))
        raise UserError(f"{field.name}: {show(item)} is not one of {', '.join(map(str, choices))}; "
                        f"nearest: {near}")
    if isinstance(item, str):
        return
    if "above" in limits and not item > limits["above"]:
        raise UserError(f"{field.name}: {item} must be above {limits['above']} "
                        f"(default: {field.default})")
    widest = 2**31 - 1 if isinstance(item, int) else 1e38
    low, high = limits.get("min", -widest), limits.get("max", widest)
    if not low <= item <= high:
        near = low if item < low else high
        raise UserError(f"{field.name}: {show(item)} is out of range; nearest: {near}")


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
