"""What an operator process answers at /metrics, as Prometheus would read it."""

import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

Labels = dict[str, str]


@dataclass(frozen=True)
class Scrape:
    """One page of metrics."""

    text: str

    def samples(self) -> Iterator[tuple[str, Labels, float]]:
        """Name, labels and value of everything on it."""
        for family in text_string_to_metric_families(self.text):
            for sample in family.samples:
                yield sample.name, sample.labels, sample.value

    def values(self, name: str, **labels: str) -> list[float]:
        """The values of all samples with this name and at least these labels."""
        return [value for found, given, value in self.samples() if found == name and labels.items() <= given.items()]

    def total(self, name: str, **labels: str) -> float:
        """Their sum; 0 where there is none."""
        return sum(self.values(name, **labels))


def scrape(address: str) -> Scrape:
    """Ask the process that serves metrics on `host:port`. Raises OSError where nobody answers."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        return Scrape(answer.read().decode())
