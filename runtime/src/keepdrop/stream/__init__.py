"""Streams: samples that go on from reading to reading."""
