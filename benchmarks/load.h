/* What the generators share: a way to give up, the clock, the processor's share, and a histogram of times. */
#ifndef LOAD_H
#define LOAD_H
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define DRAIN_NS 15000000000ull

/* Log-linear histogram: 64 steps to a doubling, so a percentile is within 1.6 %. */
typedef struct {
    uint64_t counts[64 * 40], total, max;
} Histogram;

/* What waits to be sent on one non-blocking connection; `at` is its number for epoll. */
typedef struct {
    int fd;
    uint32_t at;
    uint8_t *out;
    size_t out_len, out_off, out_cap;
    bool wants_out;
} Pipe;

static int epoll_fd;

static void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    fprintf(stderr, "load: ");
    vfprintf(stderr, format, args);
    fprintf(stderr, "\n");
    exit(1);
}

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000ull + (uint64_t)t.tv_nsec;
}

static double cpu_seconds(void) {
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) / 1e6;
}

static void note(Histogram *h, uint64_t ns) {
    int power = ns < 64 ? 0 : 63 - __builtin_clzll(ns) - 5;
    uint64_t slot = ns < 64 ? ns : (uint64_t)power * 64 + ((ns >> (power - 1)) & 63);
    if (slot >= 64 * 40) slot = 64 * 40 - 1;
    h->counts[slot]++;
    h->total++;
    if (ns > h->max) h->max = ns;
}

static double percentile_us(const Histogram *h, double p) {
    uint64_t wanted = (uint64_t)(p * (double)h->total), seen = 0;
    for (uint64_t slot = 0; slot < 64 * 40; slot++) {
        seen += h->counts[slot];
        if (seen > wanted) {
            if (slot < 64) return (double)slot / 1e3;
            uint64_t power = slot / 64;
            return (double)((64 + slot % 64) << (power - 1)) / 1e3;
        }
    }
    return 0;
}

static void append(Pipe *p, const void *data, size_t len) {
    if (p->out_len + len > p->out_cap) {
        p->out_cap = (p->out_len + len) * 2;
        p->out = realloc(p->out, p->out_cap);
    }
    memcpy(p->out + p->out_len, data, len);
    p->out_len += len;
}

static void flush(Pipe *p) {
    while (p->out_off < p->out_len) {
        ssize_t n = send(p->fd, p->out + p->out_off, p->out_len - p->out_off, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) die("send: %s", strerror(errno));
            break;
        }
        p->out_off += (size_t)n;
    }
    bool wants = p->out_off < p->out_len;
    if (!wants) p->out_off = p->out_len = 0;
    if (wants != p->wants_out) {
        struct epoll_event e = {.events = EPOLLIN | (wants ? EPOLLOUT : 0), .data.u32 = p->at};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, p->fd, &e);
        p->wants_out = wants;
    }
}

static int connect_to(int port, int rcvbuf) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), yes = 1;
    if (fd < 0) die("socket: %s", strerror(errno));
    if (rcvbuf) setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcvbuf, sizeof rcvbuf);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct timeval patience = {.tv_sec = 20};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(fd, (struct sockaddr *)&to, sizeof to) < 0) die("connect to port %d: %s", port, strerror(errno));
    return fd;
}

static void put_digits(uint8_t *to, size_t digits, uint64_t number) {
    for (size_t i = digits; i-- > 0; number /= 10) to[i] = (uint8_t)('0' + number % 10);
    if (number) die("a number of more than %zu digits", digits);
}

/* What a run measured; the delivery times are absent where nothing is delivered. */
typedef struct {
    double seconds, client_cpu;
    uint64_t replies, replies_total, deliveries, deliveries_total, recv_calls;
    const Histogram *reply_times, *delivery_times;
} Figures;

static void print_figures(Figures f) {
    static const Histogram none;
    const Histogram *r = f.reply_times, *d = f.delivery_times == NULL ? &none : f.delivery_times;
    printf("{\"seconds\":%.3f,\"replies\":%lu,\"replies_total\":%lu,\"replies_per_s\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
           "\"max_us\":%.1f,\"deliveries\":%lu,\"deliveries_total\":%lu,\"deliveries_per_s\":%.1f,\"delivery_p50_us\":%.1f,"
           "\"delivery_p99_us\":%.1f,\"delivery_max_us\":%.1f,\"client_cpu\":%.3f,\"recv_calls\":%lu}\n",
        f.seconds, f.replies, f.replies_total, (double)f.replies / f.seconds, percentile_us(r, 0.5), percentile_us(r, 0.99),
        (double)r->max / 1e3, f.deliveries, f.deliveries_total, (double)f.deliveries / f.seconds, percentile_us(d, 0.5),
        percentile_us(d, 0.99), (double)d->max / 1e3, f.client_cpu, f.recv_calls);
}
#endif
