"""Side-by-side benchmark of Anor and Orthanc: same work, same machine, in turn.

`python -m tests.bench --help` lists the pieces; infra/docs/benchmark.md says how to run it and how to read the result.
"""
