"""The tables of formats: each format has its line, and what a line says of options is so."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import get_type_hints

import pytest

from rstream_cli.exit_status import CommandError
from rstream_cli.formats import chosen_format
from rstream_cli.inputs import INPUTS, check_options, input_format
from rstream_cli.options.consuming import ConsumeOptions, OutputFormat
from rstream_cli.options.publishing import InputFormat, PublishOptions
from rstream_cli.outputs import OUTPUTS, Shown, renderer_of


def test_each_format_has_a_line() -> None:
    assert set(INPUTS) == set(InputFormat)
    assert set(OUTPUTS) == set(OutputFormat)


def lines() -> Iterator[tuple[type, Mapping[str, str]]]:
    for shape in INPUTS.values():
        yield PublishOptions, {**shape.implied_by, **shape.options}
    for output in OUTPUTS.values():
        yield ConsumeOptions, output.implied_by


def declared_flags(options: type, field: str) -> set[str]:
    hint = get_type_hints(options, include_extras=True)[field]
    (option,) = hint.__metadata__
    return {option.default, *option.param_decls}


def test_each_flag_of_a_line_is_an_option_with_that_field_and_no_default() -> None:
    for options, flags in lines():
        fields = {field.name: field for field in dataclasses.fields(options)}
        for flag, field in flags.items():
            assert flag in declared_flags(options, field)
            assert fields[field].default in (None, False)


@pytest.mark.parametrize("template", ["lines", "json", "csv"])
def test_a_template_is_no_format_whatever_its_text(template: str) -> None:
    options = ConsumeOptions(template=template, output=OutputFormat(template))
    with pytest.raises(CommandError, match=r"^--output and --format contradict each other$"):
        renderer_of(options, raw=False, shown=Shown())


def test_options_that_imply_the_same_format_agree() -> None:
    assert input_format(PublishOptions()) is InputFormat.LINES
    assert input_format(PublishOptions(nul=True, input_format=InputFormat.NUL)) is InputFormat.NUL
    with pytest.raises(CommandError, match=r"^-0 and --json and --input contradict each other$"):
        input_format(PublishOptions(nul=True, json_lines=True, input_format=InputFormat.NUL))
    with pytest.raises(CommandError, match=r"^--json and --output and --columns contradict each other$"):
        renderer_of(ConsumeOptions(json=True, output=OutputFormat.CSV, columns="body"), raw=False, shown=Shown())


def test_nothing_is_said() -> None:
    assert chosen_format(PublishOptions(), {"--input": None}, {}) is None


@pytest.mark.parametrize(
    ("options", "format", "error"),
    [
        (PublishOptions(delimiter=""), InputFormat.JSON, "--delimiter cannot be used with --input json"),
        (PublishOptions(crlf=True), InputFormat.NUL, "--crlf cannot be used with --input nul"),
        (PublishOptions(body_from="x"), InputFormat.LEN32, "--body-from cannot be used with --input len32"),
        (PublishOptions(crlf=True, message=["x"]), InputFormat.LINES, "--crlf cannot be used with --message"),
        (PublishOptions(skip_empty=True, message=["x"]), InputFormat.JSON, "--skip-empty cannot be used with"),
        (PublishOptions(message=["x"]), InputFormat.WHOLE, "--message cannot be used with --input whole"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_does_not_go_with_a_format(options: PublishOptions, format: InputFormat, error: str) -> None:  # noqa: A002
    with pytest.raises(CommandError, match=f"^{error}"):
        check_options(options, format, key_delimiter=False)
    check_options(
        dataclasses.replace(options, delimiter=None, crlf=False, skip_empty=False, body_from=None, message=None),
        format,
        key_delimiter=False,
    )


@pytest.mark.parametrize("format", InputFormat)
def test_a_key_in_front_of_a_record(format: InputFormat) -> None:  # noqa: A002
    if format in (InputFormat.JSON, InputFormat.CSV, InputFormat.DUMP):
        with pytest.raises(CommandError, match=f"^--key-delimiter cannot be used with --input {format}$"):
            check_options(PublishOptions(), format, key_delimiter=True)
    else:
        check_options(PublishOptions(skip_empty=False), format, key_delimiter=True)


def test_empty_messages_may_be_skipped() -> None:
    check_options(PublishOptions(skip_empty=True, message=[""]), InputFormat.LINES, key_delimiter=True)
