"""Native kernels for CPUs: C++ with a plain C interface, loaded by `native`, one Python file a kernel."""
