"""Apps that real web servers and task queues run in the tests of workers."""
