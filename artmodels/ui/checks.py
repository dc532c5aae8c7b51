"""Checks of what a visitor gives: each says what is wrong and what to do, in a sentence beside the control."""

from collections.abc import Callable, Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import gradio as gr

from artmodels.errors import ImageError, suggest
from artmodels.hub import catalogue
from artmodels.images.decoding import LoadedImage
from artmodels.images.decoding_process import DecodingProcesses
from artmodels.ui.server.files import Fault

__all__ = ["Check", "file_list", "model_of", "picture", "pixels", "read", "same_size_as", "validator", "whole_number"]

Check = Callable[[Any, Mapping[str, Any]], str]
"""Takes a parameter's value and all values by name; returns what is wrong, or nothing."""

# Checks run outside the queue: two processes bound their memory, and two slow files delay others for a bounded time.
_processes = DecodingProcesses(2)


def read(path: str, *, background: tuple[int, int, int] | None = (255, 255, 255)) -> LoadedImage:
    """Load an uploaded picture as `artmodels.images.load` does, in a process that is killed if it takes too long.

    One above the limit of that is reduced to it, and a note says so.

    Raises:
        ImageError: It cannot be used; the message does not tell where the server keeps it.
    """
    try:
        return _processes.load(path, background=background, shrink=True)
    except ImageError as error:
        raise type(error)(str(error).replace(path, Path(path).name)) from None


def picture(what: str, *, smallest: int = 1, optional: bool = False) -> Check:
    """Check that a usable picture was given, each of its sides at least `smallest` pixels."""

    def check(path: str | None, _: Mapping[str, Any]) -> str:
        if path is None:
            return "" if optional else f"There is no picture: upload {what}, or pick an example below."
        try:
            image = read(path)
        except ImageError as error:
            return str(error)
        if min(image.width, image.height) >= smallest:
            return ""
        size = f"{image.width} x {image.height}"
        return f"This picture is {size} pixels: {what} needs at least {smallest} on each side. Upload a larger one."

    return check


def file_list(most: int) -> Check:
    """Check that some files were given, and not more than `most`; each is read when its turn comes."""

    def check(paths: list[str] | None, _: Mapping[str, Any]) -> str:
        if not paths:
            return "There are no pictures: upload some."
        if len(paths) > most:
            return f"These are {len(paths)} files: give at most {most} at a time."
        return ""

    return check


def model_of(method: str) -> Check:
    """Check that a name is that of one of a method's models."""
    names = [entry.name for entry in catalogue.list_models(method)]

    def check(name: str, _: Mapping[str, Any]) -> str:
        if name in names:
            return ""
        return f"{name!r} is not one of {', '.join(names)}.{suggest(str(name), names)}"

    return check


def pixels(what: str, least: int, most: int, *, or_zero: bool = False) -> Check:
    """Check a length in pixels, as `whole_number` does."""
    return whole_number(what, least, most, f"The limit of this machine is {most} pixels a side.", or_zero=or_zero)


def whole_number(what: str, least: int, most: int, advice: str = "", *, or_zero: bool = False) -> Check:
    """Check that a number is whole and within its bounds, or 0 where that leaves the choice to the method."""

    def check(value: int | None, _: Mapping[str, Any]) -> str:
        if value is not None and (least <= value <= most or (or_zero and value == 0)):
            return ""
        zero = "0, or " if or_zero else ""
        return f"{what} is {'empty' if value is None else value}: give {zero}{least} to {most}. {advice}".rstrip()

    return check


def same_size_as(other: str, advice: str) -> Check:
    """Check that a picture, if given, is as large as the one of the parameter `other`."""

    def check(path: str | None, given: Mapping[str, Any]) -> str:
        if path is None:
            return ""
        try:
            image = read(path)
        except ImageError as error:
            return str(error)
        try:
            reference = read(given[other])
        except (ImageError, TypeError):
            return ""  # the other control says so
        size, wanted = (f"{each.width} x {each.height}" for each in (image, reference))
        return "" if size == wanted else f"This picture is {size} pixels and the {other} {wanted}. {advice}"

    return check


def validator(function: Callable[..., Any], checks: Mapping[str, Check]) -> Callable[..., list[Any]]:
    """Make gradio's validator of a function from the checks of its parameters: a message for each control."""
    names = list(signature(function).parameters)

    def validate(*values: Any) -> list[Any]:
        if any(isinstance(value, Fault) for value in values):  # then all are
            return [gr.validate(not fault, fault) for fault in values]
        given = dict(zip(names, values, strict=True))
        faults = [checks[name](given[name], given) if name in checks else "" for name in names]
        return [gr.validate(not fault, fault) for fault in faults]

    return validate
