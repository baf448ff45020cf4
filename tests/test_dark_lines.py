"""Every line either runs in a test, as tests/lit_lines.json records, or docs/dark-lines.md says why none can run it."""

import dark_lines


def test_no_line_is_dark_without_a_reason() -> None:
    new, gone = dark_lines.compared()
    missing = "\n".join(block.row("why?") for block in new)
    assert not new, (
        f'run `make dark-lines TESTS="tests/..."` with the tests of these lines, or explain them:\n{missing}'
    )
    stale = "\n".join(block.row() for block in gone)
    assert not gone, f"no longer dark, or gone from the sources; remove these rows:\n{stale}"


def test_every_reason_is_a_sentence() -> None:
    assert all(len(reason.split()) >= 3 for reason in dark_lines.explanations().values())


def test_a_new_line_is_dark_and_an_old_one_stays_lit_wherever_it_moves(tmp_path, monkeypatch) -> None:
    package = tmp_path / "grpo"
    package.mkdir()
    module = package / "module.py"
    module.write_text("def f(x):\n    if x:\n        return 1\n    return 2\n")
    for name, path in (("ROOT", tmp_path), ("RECORD", tmp_path / "lit.json"), ("PAGE", tmp_path / "page.md")):
        monkeypatch.setattr(dark_lines, name, path)
    (tmp_path / "pyproject.toml").write_text("[tool.coverage.report]\nexclude_also = []\n")
    lit = " ".join(line.digest() for line in dark_lines.lines_of(module) if line.text != "return 2")
    (tmp_path / "lit.json").write_text(f'{{"grpo/module.py": "{lit}"}}')
    (tmp_path / "page.md").write_text("| `grpo/module.py` | `f` | `return 2` | 1 | no x is ever false |\n")
    assert dark_lines.compared() == ([], [])
    module.write_text("# moved\n\n\ndef f(x):\n    if x:\n        x = a | b\n        return 1\n    return 2\n")
    ((block,), gone) = dark_lines.compared()
    assert (block.function, block.first, block.lines, gone) == ("f", "x = a | b", 1, [])
    with (tmp_path / "page.md").open("a") as page:
        page.write(block.row("a stroke in a line is no end of a cell") + "\n")
    assert dark_lines.compared() == ([], [])
    module.write_text("def f(x):\n    return 1\n")
    assert [gone.first for gone in dark_lines.compared()[1]] == ["return 2", "x = a | b"]
