#include "threads.h"

#include "api.h"

// GCC's and LLVM's runtimes both have these three; the library is not linked to either, so that it can never
// bring a second runtime, with threads of its own, into a process that has torch's.
typedef void (*GompParallel)(void (*)(void*), void*, unsigned, unsigned);
typedef int (*OmpNumber)(void);

namespace {
GompParallel gomp_parallel = nullptr;
OmpNumber thread_number = nullptr;
OmpNumber team_size = nullptr;

struct Region {
    Body body;
    void* context;
};

void enter(void* data) {
    Region* region = static_cast<Region*>(data);
    region->body(region->context, thread_number(), team_size());
}
}  // namespace

EXPORT void tercet_use_threads(void* parallel, void* number, void* size) {
    thread_number = reinterpret_cast<OmpNumber>(number);
    team_size = reinterpret_cast<OmpNumber>(size);
    gomp_parallel = reinterpret_cast<GompParallel>(parallel);
}

void run_parallel(int threads, Body body, void* context) {
    if (threads <= 1 || gomp_parallel == nullptr) {
        body(context, 0, 1);
        return;
    }
    Region region = {body, context};
    gomp_parallel(enter, &region, static_cast<unsigned>(threads), 0);
}
