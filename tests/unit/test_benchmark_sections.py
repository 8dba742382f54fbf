from megatron_srp.benchmarks.sections import Section, write_section


def section(name: str, body: str) -> Section:
    return Section(name, f"About {name}", f"make {name}", ("numpy",), body, machine="a machine")


def test_a_section_replaces_its_own_and_leaves_the_others(tmp_path):
    path = tmp_path / "BENCHMARKS.md"
    for name, body in (("a", "first figures"), ("b", r"two \1"), ("a", r"three \g<0>")):
        write_section(section(name, body), path)
    text = path.read_text()
    assert text.startswith("# Benchmarks\n")
    assert "first figures" not in text
    assert text.index(r"three \g<0>") < text.index(r"two \1")
    assert text.count("<!-- section: a -->") == text.count("<!-- end: a -->") == 1
    assert "`make b`" in text and "a machine; numpy " in text
