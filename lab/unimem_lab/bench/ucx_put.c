/* UCX beside us: puts between two processes of this machine, both of which progress all the time.
 *
 *   cc -O2 -D_GNU_SOURCE ucx_put.c -o ucx_put -lucp -lucs && UCX_TLS=tcp ./ucx_put 3
 *
 * Over TCP a put is software on both sides, so the target must progress; over shared memory it is a store
 * into the peer's mapping. The transport is chosen by UCX_TLS, as always with UCX. Argument: rounds.
 * Output: one line a figure, "name value", seconds for one or operations a second (`rate`), medians of rounds.
 */
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <ucp/api/ucp.h>
#include <unistd.h>

enum { REGION = 16 << 20, MOST_ROUNDS = 64, OUTSTANDING = 64, BATCH = 4096 };

static ucp_context_h context;
static ucp_worker_h worker;
static ucp_ep_h endpoint;
static ucp_rkey_h rkey;
static uint64_t remote;
static char *local;

static void need(ucs_status_t status, const char *what)
{
    if (status != UCS_OK) {
        fprintf(stderr, "%s: %s\n", what, ucs_status_string(status));
        exit(1);
    }
}

static void all_of(ssize_t moved, size_t wanted)
{
    if (moved != (ssize_t)wanted)
        exit(1); /* the other process is gone */
}

static void say(int fd, const void *data, size_t n)
{
    all_of(write(fd, &n, sizeof n), sizeof n);
    all_of(write(fd, data, n), n);
}

static void *hear(int fd, size_t *n)
{
    all_of(read(fd, n, sizeof *n), sizeof *n);
    char *data = malloc(*n + 1);
    for (size_t got = 0; got < *n;) {
        ssize_t more = read(fd, data + got, *n - got);
        if (more <= 0)
            exit(1);
        got += more;
    }
    return data;
}

static void open_worker(void)
{
    ucp_params_t params = {.field_mask = UCP_PARAM_FIELD_FEATURES, .features = UCP_FEATURE_RMA};
    ucp_worker_params_t single = {.field_mask = UCP_WORKER_PARAM_FIELD_THREAD_MODE,
                                  .thread_mode = UCS_THREAD_MODE_SINGLE};
    need(ucp_init(&params, NULL, &context), "ucp_init");
    need(ucp_worker_create(context, &single, &worker), "ucp_worker_create");
}

/* On the place-th of our processors, if there are as many: as the nodes that are measured beside. */
static void pin(int place)
{
    cpu_set_t ours, one;
    if (sched_getaffinity(0, sizeof ours, &ours) || CPU_COUNT(&ours) < 2)
        return;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; cpu++)
        if (CPU_ISSET(cpu, &ours) && place-- == 0)
            CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return at.tv_sec + at.tv_nsec * 1e-9;
}

static void finish(ucs_status_ptr_t request)
{
    if (request == NULL)
        return;
    if (UCS_PTR_IS_ERR(request))
        need(UCS_PTR_STATUS(request), "request");
    while (ucp_request_check_status(request) == UCS_INPROGRESS)
        ucp_worker_progress(worker);
    need(ucp_request_check_status(request), "request");
    ucp_request_free(request);
}

static ucs_status_ptr_t flushing(void)
{
    ucp_request_param_t none = {0};
    return ucp_ep_flush_nbx(endpoint, &none);
}

static ucs_status_ptr_t put(size_t at, size_t n)
{
    ucp_request_param_t none = {0};
    return ucp_put_nbx(endpoint, local + at, n, remote + at, rkey, &none);
}

static double blocking(size_t n, int times)
{
    double started = now();
    for (int i = 0; i < times; i++) {
        finish(put(0, n));
        finish(flushing());
    }
    return (now() - started) / times;
}

static double rate(int window, int windows)
{
    double started = now();
    for (int i = 0; i < windows; i++) {
        for (int k = 0; k < window; k++) {
            ucs_status_ptr_t request = put(k * 8, 8);
            if (UCS_PTR_IS_PTR(request))
                ucp_request_free(request); /* the flush waits for it */
        }
        finish(flushing());
    }
    return window * (double)windows / (now() - started);
}

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void source(int fd, int rounds)
{
    static const struct { const char *name; size_t size; int times; } puts_of[] = {
        {"put_8B", 8, 2000}, {"put_64KiB", 64 << 10, 400}, {"put_1MiB", 1 << 20, 40}, {"put_16MiB", 16 << 20, 4},
    };
    double figures[6][MOST_ROUNDS];
    size_t n, n_key;
    ucp_address_t *address = hear(fd, &n);
    void *key = hear(fd, &n_key);
    uint64_t *where = hear(fd, &n);
    ucp_ep_params_t params = {.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS, .address = address};
    open_worker();
    need(ucp_ep_create(worker, &params, &endpoint), "ucp_ep_create");
    need(ucp_ep_rkey_unpack(endpoint, key, &rkey), "ucp_ep_rkey_unpack");
    remote = *where;
    local = malloc(REGION);
    memset(local, 1, REGION);
    blocking(1 << 20, 10);
    for (int round = 0; round < rounds; round++) {
        for (int i = 0; i < 4; i++)
            figures[i][round] = blocking(puts_of[i].size, puts_of[i].times);
        figures[4][round] = rate(OUTSTANDING, 200);
        figures[5][round] = rate(BATCH, 20);
    }
    for (int i = 0; i < 6; i++) {
        qsort(figures[i], rounds, sizeof(double), ascending);
        printf("%s %.9g\n", i < 4 ? puts_of[i].name : i == 4 ? "rate_64" : "rate_4096", figures[i][rounds / 2]);
    }
    ucp_rkey_destroy(rkey);
}

static void target(int fd)
{
    ucp_mem_map_params_t params = {
        .field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS,
        .address = NULL, .length = REGION, .flags = UCP_MEM_MAP_ALLOCATE,
    };
    ucp_mem_attr_t attributes = {.field_mask = UCP_MEM_ATTR_FIELD_ADDRESS};
    ucp_mem_h memory;
    ucp_address_t *address;
    void *key;
    size_t n;
    open_worker();
    need(ucp_mem_map(context, &params, &memory), "ucp_mem_map");
    need(ucp_mem_query(memory, &attributes), "ucp_mem_query");
    memset(attributes.address, 0, REGION);
    need(ucp_worker_get_address(worker, &address, &n), "ucp_worker_get_address");
    say(fd, address, n);
    need(ucp_rkey_pack(context, memory, &key, &n), "ucp_rkey_pack");
    say(fd, key, n);
    uint64_t where = (uintptr_t)attributes.address;
    say(fd, &where, sizeof where);
    char end;
    while (recv(fd, &end, 1, MSG_DONTWAIT) != 0)
        ucp_worker_progress(worker);
}

int main(int argc, char **argv)
{
    int rounds = argc > 1 ? atoi(argv[1]) : 3, ends[2];
    if (rounds < 1 || rounds > MOST_ROUNDS || socketpair(AF_UNIX, SOCK_STREAM, 0, ends))
        return 2;
    pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        pin(1);
        target(ends[1]);
        return 0;
    }
    close(ends[1]);
    pin(0);
    source(ends[0], rounds);
    fflush(stdout);
    close(ends[0]);
    waitpid(child, NULL, 0);
    return 0;
}
