/* Load generator for Redis, the counterpart of load.c's claims: a lock is `SET key token NX PX ttl`, its release `DEL key`.
 *
 * C connections with W requests in flight each. A lane is one request in flight; lane L of connection C locks and
 * unlocks key C * LANES + L in turn. Answers come in order: `+OK` to each SET, `:1` to each DEL, or the run ends. At the
 * end whatever is locked is unlocked. What it prints, and what is counted when, is as in load.c.
 */
#include "load.h"

#define IN_BYTES (256 * 1024)
#define LANES 256
#define KEY_DIGITS 7

typedef struct {
    uint64_t sent_at;
    bool holds;
} Lane;

typedef struct {
    Pipe pipe;
    Lane lanes[LANES];
    uint8_t order[LANES]; /* the lanes in flight, oldest first: a ring */
    uint32_t first, in_flight;
    uint8_t rest[8];
    size_t rest_len;
} Conn;

static struct {
    int port, connections, window;
    double seconds, warmup;
} opt = {.connections = 1, .window = 1, .seconds = 1, .warmup = 0.3};

static char lock_text[] = "*6\r\n$3\r\nSET\r\n$13\r\nlease/0000000\r\n$16\r\n0123456789abcdef\r\n$2\r\nNX\r\n$2\r\nPX\r\n$6\r\n900000\r\n";
static char unlock_text[] = "*2\r\n$3\r\nDEL\r\n$13\r\nlease/0000000\r\n";

static Conn *conns;
static uint8_t in[IN_BYTES];
static uint64_t measure_from, measure_until, recv_calls, replies, replies_total;
static bool is_stopping;
static Histogram reply_times;

static void send_request(Conn *c, uint32_t lane, uint64_t now) {
    Lane *l = &c->lanes[lane];
    char *text = l->holds ? unlock_text : lock_text;
    put_digits((uint8_t *)strstr(text, "lease/") + 6, KEY_DIGITS, c->pipe.at * LANES + lane);
    l->sent_at = now;
    c->order[(c->first + c->in_flight++) % LANES] = (uint8_t)lane;
    append(&c->pipe, text, strlen(text));
}

static void on_answer(Conn *c, const uint8_t *line, size_t len, uint64_t now) {
    if (c->in_flight == 0) die("an answer to what was not asked: %.*s", (int)len, line);
    uint32_t lane = c->order[c->first++ % LANES];
    Lane *l = &c->lanes[lane];
    const char *wanted = l->holds ? ":1" : "+OK";
    if (len != strlen(wanted) || memcmp(line, wanted, len) != 0) die("%.*s instead of %s", (int)len, line, wanted);
    c->in_flight--;
    replies_total++;
    if (now >= measure_from && now < measure_until) {
        replies++;
        note(&reply_times, now - l->sent_at);
    }
    l->holds = !l->holds;
    if (!is_stopping || l->holds) send_request(c, lane, now);
}

static void on_readable(Conn *c) {
    memcpy(in, c->rest, c->rest_len);
    ssize_t n = recv(c->pipe.fd, in + c->rest_len, IN_BYTES - c->rest_len, 0);
    if (n == 0) die("the server closed the connection");
    if (n < 0) {
        if (errno == EAGAIN || errno == EINTR) return;
        die("recv: %s", strerror(errno));
    }
    recv_calls++;
    uint64_t now = now_ns();
    const uint8_t *at = in, *end = in + c->rest_len + n, *stop;
    while ((stop = memmem(at, (size_t)(end - at), "\r\n", 2)) != NULL) {
        on_answer(c, at, (size_t)(stop - at), now);
        at = stop + 2;
    }
    c->rest_len = (size_t)(end - at);
    if (c->rest_len > sizeof c->rest) die("a long answer: %.*s", (int)c->rest_len, at);
    memcpy(c->rest, at, c->rest_len);
    flush(&c->pipe);
}

static void open_all(void) {
    conns = calloc((size_t)opt.connections, sizeof *conns);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < opt.connections; i++) {
        Pipe *p = &conns[i].pipe;
        p->at = (uint32_t)i;
        p->fd = connect_to(opt.port, 0);
        fcntl(p->fd, F_SETFL, fcntl(p->fd, F_GETFL) | O_NONBLOCK);
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = p->at};
        epoll_ctl(epoll_fd, EPOLL_CTL_ADD, p->fd, &e);
    }
}

static void turn(void) {
    static struct epoll_event events[512];
    int n = epoll_wait(epoll_fd, events, 512, 100);
    for (int i = 0; i < n; i++) {
        Conn *c = &conns[events[i].data.u32];
        if (events[i].events & EPOLLOUT) flush(&c->pipe);
        if (events[i].events & ~(uint32_t)EPOLLOUT) on_readable(c);
    }
}

static bool is_drained(void) {
    for (int i = 0; i < opt.connections; i++)
        if (conns[i].in_flight) return false;
    return true;
}

static void run(void) {
    measure_from = now_ns() + (uint64_t)(opt.warmup * 1e9);
    measure_until = measure_from + (uint64_t)(opt.seconds * 1e9);
    for (int i = 0; i < opt.connections; i++) {
        for (int w = 0; w < opt.window; w++) send_request(&conns[i], (uint32_t)w, now_ns());
        flush(&conns[i].pipe);
    }
    double cpu_from = -1, cpu_until = 0;
    uint64_t began = 0, ended = 0;
    while (!is_stopping || !is_drained()) {
        turn();
        uint64_t now = now_ns();
        if (cpu_from < 0 && now >= measure_from) cpu_from = cpu_seconds(), began = now;
        if (!is_stopping && now >= measure_until) {
            is_stopping = true;
            cpu_until = cpu_seconds(), ended = now;
        }
        if (now > measure_until + DRAIN_NS) die("answers are missing: %lu came", replies_total);
    }
    print_figures((Figures){.seconds = (double)(measure_until - measure_from) / 1e9, .replies = replies,
        .replies_total = replies_total, .client_cpu = (cpu_until - cpu_from) / ((double)(ended - began) / 1e9),
        .recv_calls = recv_calls, .reply_times = &reply_times});
}

int main(int argc, char **argv) {
    static const struct option known[] = {{"port", 1, 0, 'p'}, {"connections", 1, 0, 'c'}, {"window", 1, 0, 'w'},
        {"seconds", 1, 0, 's'}, {"warmup", 1, 0, 'r'}, {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'p': opt.port = atoi(optarg); break;
        case 'c': opt.connections = atoi(optarg); break;
        case 'w': opt.window = atoi(optarg); break;
        case 's': opt.seconds = atof(optarg); break;
        case 'r': opt.warmup = atof(optarg); break;
        default: return 2;
        }
    }
    if (opt.window > LANES) die("at most %d in flight", LANES);
    open_all();
    run();
    return 0;
}
