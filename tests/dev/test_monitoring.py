"""Prometheus comes from one release, however it comes."""

from dev.monitoring import MODULE_VERSION, PROMETHEUS, PROMETHEUS_VERSION, PROMTOOL


def test_download_and_module_are_the_same_release() -> None:
    major, minor, patch = map(int, PROMETHEUS_VERSION.split("."))
    assert f"v0.{100 * major + minor}.{patch}" == MODULE_VERSION


def test_both_programs_are_asked_for_in_both_places() -> None:
    for tool in (PROMTOOL, PROMETHEUS):
        assert [origin.program for origin in tool.origins] == [tool.name] * 2
        assert {origin.version for origin in tool.origins} == {PROMETHEUS_VERSION, MODULE_VERSION}
