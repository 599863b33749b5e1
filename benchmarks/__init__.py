"""Ours beside the peers: CPU, latency, memory, measured in one run against one server that is nobody's.

``python -m benchmarks`` measures everything, ``--quick`` in less time, with names of scenes only those; ``guard`` compares the hot
paths with the floor of the same run and exits with 1 if one has become slower than it may be. ``--against TREE`` measures another
copy of the package beside this one, which is how a mend of the hot paths is judged.

How it measures: each program runs in a process of its own, in an environment of its own (made on the first run, in a cache folder
outside the tree), in turn, A B A B, for several rounds; told is the median. Counted is the CPU time of the whole process, all threads,
between two events, so neither start nor server is in it. The numbers of two runs cannot be compared, the ratios of one run can.

| scene | what |
|---|---|
| ``receive``, ``receive-tls`` | socket to typed event with decoded sound in one handler, as fast as each takes it |
| ``pace`` | the same, one event per wake-up |
| ``send`` | 20 and 100 ms of sound: pcm in, a masked frame out |
| ``latency`` | from send to the handler of the answer, over what bare sockets take |
| ``duplex`` | both ways at once |
| ``sessions``, ``sessions-tls`` | 1 to 1000 conversations in one process: delivered, delay, CPU, memory |
| ``connect`` | from nothing to ready inside TLS and back |
| ``imports`` | until the library is ready to connect |

The floor is `recv_into` and a walk along frame headers, or one ``sendall`` of a finished frame. Needs a POSIX system; memory needs Linux.
"""
