"""Honest load for any destination, over the client only: what ``mqcli benchmark`` is made of.

``plan`` says what is to be done, ``engine`` does a share of it, ``worker`` is a process with an
engine in it, ``conductor`` leads the workers, ``result`` is what a run leaves. docs/benchmark.md
has the method.
"""
