/* Load generator of the benchmarks: one thread, one epoll, WebSocket frames with a fixed mask.
 *
 * Modes
 *   request  C connections with W requests in flight each; every answer is checked (id, and either `"type":"reply"` or
 *            equality with what was sent). With --announced each connection subscribes, and must be told of everything
 *            that was acknowledged, in turn.
 *   fanout   P publishers with W requests in flight together, S subscribers; each subscriber's `"n":` must be gapless,
 *            and at the end each must have exactly as many messages as were acknowledged.
 *   hold     C connections are opened and kept until stdin ends; with --deaf they are never read again.
 *
 * Answers are counted inside the measured window only; totals cover everything, so they can be compared with the
 * journal. One write() per connection and wake-up, for every server alike. One JSON object on stdout; a word on stderr
 * and exit 1 when an answer is wrong, missing or a refusal.
 */
#include "load.h"

#define IN_BYTES (512 * 1024)
#define LANES 256
#define STAMP_LETTERS 12
#define BODY_CHARS 120

static const uint8_t MASK[4] = {0x37, 0xfa, 0x21, 0x3d};

typedef struct {
    uint64_t sent_at, epoch; /* epoch: of the last lease of this lane */
    uint32_t turn, sent_id;
    bool waiting, holds;
} Lane;

typedef struct {
    Pipe pipe;
    bool subscriber;
    uint8_t *rest; /* the beginning of a frame that has not arrived whole */
    size_t rest_len, rest_cap;
    uint32_t in_flight;
    Lane lanes[LANES];
    bool *held; /* by task: granted, as this connection was told */
    uint64_t first_n, last_n, delivered;
    size_t n_offset, stamp_offset; /* where they stood in the last frame: the first guess for the next one */
} Conn;

static struct {
    const char *mode, *kind, *hellos, *subscribe, *channel, *worktree, *path;
    int port, connections, window, publishers, subscribers, rcvbuf;
    double seconds, warmup, gap_ms;
    bool echo, deaf, announced;
} opt = {.mode = "request", .kind = "message", .channel = "main:general", .worktree = "bench:/example/repository",
    .path = "src/mod_#/**", .connections = 1, .window = 1, .seconds = 1, .warmup = 0.3};

static Conn *conns;
static int conn_count;
static uint8_t in[IN_BYTES];
static uint64_t measure_from, measure_until, recv_calls;
static uint64_t replies, replies_total, deliveries, deliveries_total;
static bool is_stopping, is_channel, is_lease, has_version;
static Histogram reply_times, delivery_times;

/* ---- frames ---------------------------------------------------------------------------------------------------- */

static size_t put_header(uint8_t *to, uint8_t opcode, size_t len) {
    size_t at = 0;
    to[at++] = 0x80 | opcode;
    if (len < 126) {
        to[at++] = 0x80 | (uint8_t)len;
    } else {
        if (len > 65535) die("a frame of %zu bytes is too long for this generator", len);
        to[at++] = 0x80 | 126;
        to[at++] = (uint8_t)(len >> 8);
        to[at++] = (uint8_t)len;
    }
    memcpy(to + at, MASK, 4);
    return at + 4;
}

static void append_frame(Conn *c, uint8_t opcode, const uint8_t *payload, size_t len) {
    uint8_t *frame = malloc(len + 16);
    size_t at = put_header(frame, opcode, len);
    for (size_t i = 0; i < len; i++) frame[at + i] = payload[i] ^ MASK[i & 3];
    append(&c->pipe, frame, at + len);
    free(frame);
}

/* The text after `needle`; guess: where it stood last time, tried first. */
static const uint8_t *find(const uint8_t *data, size_t len, size_t from, const char *needle, size_t *guess) {
    size_t size = strlen(needle);
    if (*guess >= from && *guess + size <= len && memcmp(data + *guess, needle, size) == 0) return data + *guess + size;
    const uint8_t *hit = from < len ? memmem(data + from, len - from, needle, size) : NULL;
    if (hit == NULL) return NULL;
    *guess = (size_t)(hit - data);
    return hit + size;
}

#include "requests.h"

/* ---- what arrives ---------------------------------------------------------------------------------------------- */

static void on_message(Conn *c, const uint8_t *data, size_t len, uint64_t now) {
    const uint8_t *at = find(data, len, 0, "\"n\":", &c->n_offset);
    if (at == NULL) die("a message without a number: %.*s", (int)len, data);
    uint64_t n = 0;
    while (at < data + len && *at >= '0' && *at <= '9') n = n * 10 + (uint64_t)(*at++ - '0');
    if (c->delivered == 0) c->first_n = n;
    else if (n != c->last_n + 1) die("a gap: after message %lu came %lu", c->last_n, n);
    c->last_n = n;
    c->delivered++;
    deliveries_total++;
    at = find(data, len, (size_t)(at - data), "\"body\":\"", &c->stamp_offset);
    if (at == NULL || at + STAMP_LETTERS > data + len) die("a message without a time stamp: %.*s", (int)len, data);
    uint64_t stamp = 0;
    for (int i = 0; i < STAMP_LETTERS; i++) stamp = stamp << 4 | (uint64_t)(at[i] - 'a');
    if (now >= measure_from && now < measure_until) {
        deliveries++;
        note(&delivery_times, (now - stamp) & 0xffffffffffffull);
    }
}

static void on_frame(Conn *c, uint8_t opcode, const uint8_t *data, size_t len, uint64_t now) {
    if (opcode == 1) {
        static const char notice[] = "{\"type\":\"message\",", changed[] = "{\"type\":\"lease.changed\",";
        if (is_channel) on_channel(c, data, len, now);
        else if (opt.announced && len > sizeof changed && memcmp(data, changed, sizeof changed - 1) == 0)
            on_lease_changed(c, data, len, now);
        else if (opt.announced && (len < 13 || memcmp(data, "{\"type\":\"feed", 13) != 0)) on_reply(c, data, len, now);
        else if (c->subscriber && len > sizeof notice && memcmp(data, notice, sizeof notice - 1) == 0) on_message(c, data, len, now);
        else if (c->subscriber || opt.deaf || strcmp(opt.mode, "hold") == 0) return; /* feed.live and the like */
        else on_reply(c, data, len, now);
    } else if (opcode == 9) {
        append_frame(c, 10, data, len);
    } else if (opcode == 8) {
        die("closed by the server: %d %.*s", len < 2 ? 0 : data[0] << 8 | data[1], len < 2 ? 0 : (int)len - 2, data + 2);
    } else if (opcode != 10) {
        die("an unexpected frame with opcode %d", opcode);
    }
}

/* The length of the whole frame at `data`, or 0 when more bytes are needed. */
static size_t frame_at(const uint8_t *data, size_t len, size_t *payload_at) {
    if (len < 2) return 0;
    if (!(data[0] & 0x80) || (data[0] & 0x70) || (data[1] & 0x80)) die("a fragment, reserved bits or a mask");
    size_t size = data[1] & 0x7f, at = 2;
    if (size == 126) {
        if (len < 4) return 0;
        size = (size_t)data[2] << 8 | data[3];
        at = 4;
    } else if (size == 127) {
        if (len < 10) return 0;
        size = 0;
        for (int i = 2; i < 10; i++) size = size << 8 | data[i];
        at = 10;
    }
    if (size > IN_BYTES / 2) die("a frame of %zu bytes", size);
    *payload_at = at;
    return len < at + size ? 0 : at + size;
}

static void keep_rest(Conn *c, const uint8_t *data, size_t len) {
    if (len > c->rest_cap) {
        c->rest_cap = len * 2;
        c->rest = realloc(c->rest, c->rest_cap);
    }
    memmove(c->rest, data, len);
    c->rest_len = len;
}

static void on_readable(Conn *c) {
    if (c->rest_len) memcpy(in, c->rest, c->rest_len);
    ssize_t n = recv(c->pipe.fd, in + c->rest_len, IN_BYTES - c->rest_len, 0);
    if (n == 0) die("the server closed the connection");
    if (n < 0) {
        if (errno == EAGAIN || errno == EINTR) return;
        die("recv: %s", strerror(errno));
    }
    recv_calls++;
    uint64_t now = now_ns();
    size_t len = c->rest_len + (size_t)n, at = 0, payload_at, whole;
    while ((whole = frame_at(in + at, len - at, &payload_at)) != 0) {
        on_frame(c, in[at] & 15, in + at + payload_at, whole - payload_at, now);
        at += whole;
    }
    keep_rest(c, in + at, len - at);
    flush(&c->pipe);
}

/* ---- opening --------------------------------------------------------------------------------------------------- */

static void send_all(Conn *c, const void *data, size_t len) {
    for (size_t at = 0; at < len;) {
        ssize_t n = send(c->pipe.fd, (const char *)data + at, len - at, MSG_NOSIGNAL);
        if (n < 0) die("send: %s", strerror(errno));
        at += (size_t)n;
    }
}

static void read_more(Conn *c) {
    uint8_t chunk[16384];
    ssize_t n = recv(c->pipe.fd, chunk, sizeof chunk, 0);
    if (n <= 0) die("while opening: %s", n == 0 ? "the server closed the connection" : strerror(errno));
    uint8_t *joined = malloc(c->rest_len + (size_t)n);
    memcpy(joined, c->rest, c->rest_len);
    memcpy(joined + c->rest_len, chunk, (size_t)n);
    keep_rest(c, joined, c->rest_len + (size_t)n);
    free(joined);
}

/* Send one frame and wait for the reply; notices in between are dropped, a refusal ends the run. */
static void ask(Conn *c, const char *text) {
    append_frame(c, 1, (const uint8_t *)text, strlen(text));
    send_all(c, c->pipe.out, c->pipe.out_len);
    c->pipe.out_len = 0;
    for (;;) {
        size_t payload_at, whole = frame_at(c->rest, c->rest_len, &payload_at);
        if (whole == 0) {
            read_more(c);
            continue;
        }
        const char *payload = (const char *)c->rest + payload_at;
        int size = (int)(whole - payload_at);
        if ((c->rest[0] & 15) == 8 || strncmp(payload, "{\"type\":\"error\"", 15) == 0) die("refused: %.*s", size, payload);
        bool is_reply = is_channel ? memmem(payload, (size_t)size, "\"type\": \"welcome\"", 17) != NULL
                                   : strncmp(payload, "{\"type\":\"reply\"", 15) == 0;
        memmove(c->rest, c->rest + whole, c->rest_len - whole);
        c->rest_len -= whole;
        if (is_reply) return;
    }
}

static void open_one(Conn *c, const char *hello) {
    c->rest_cap = 65536;
    c->rest = malloc(c->rest_cap);
    c->pipe.fd = connect_to(opt.port, opt.rcvbuf);
    char head[512];
    int len = snprintf(head, sizeof head,
        "GET / HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n", opt.port);
    send_all(c, head, (size_t)len);
    uint8_t *end;
    while ((end = memmem(c->rest, c->rest_len, "\r\n\r\n", 4)) == NULL) read_more(c);
    if (memmem(c->rest, c->rest_len, " 101 ", 5) == NULL) die("no upgrade: %.*s", (int)c->rest_len, c->rest);
    end += 4;
    c->rest_len -= (size_t)(end - c->rest);
    memmove(c->rest, end, c->rest_len);
    if (hello != NULL) ask(c, hello);
    if (opt.subscribe != NULL && (c->subscriber || strcmp(opt.mode, "hold") == 0)) ask(c, opt.subscribe);
}

static void open_all(void) {
    FILE *file = opt.hellos == NULL ? NULL : fopen(opt.hellos, "r");
    if (opt.hellos != NULL && file == NULL) die("%s: %s", opt.hellos, strerror(errno));
    char line[4096];
    conns = calloc((size_t)conn_count, sizeof *conns);
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < conn_count; i++) {
        if (file != NULL) {
            if (fgets(line, sizeof line, file) == NULL) die("%s has fewer than %d hellos", opt.hellos, conn_count);
            line[strcspn(line, "\n")] = 0;
        }
        conns[i].subscriber = opt.announced || (strcmp(opt.mode, "fanout") == 0 && i >= opt.publishers);
        conns[i].pipe.at = (uint32_t)i;
        if (opt.announced) conns[i].held = calloc((size_t)conn_count * LANES, sizeof(bool));
        open_one(&conns[i], file == NULL ? NULL : line);
        fcntl(conns[i].pipe.fd, F_SETFL, fcntl(conns[i].pipe.fd, F_GETFL) | O_NONBLOCK);
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        if (!opt.deaf) epoll_ctl(epoll_fd, EPOLL_CTL_ADD, conns[i].pipe.fd, &e);
    }
    if (file != NULL) fclose(file);
}

/* ---- running --------------------------------------------------------------------------------------------------- */

static void turn(int timeout_ms) {
    static struct epoll_event events[512];
    int n = epoll_wait(epoll_fd, events, 512, timeout_ms);
    for (int i = 0; i < n; i++) {
        Conn *c = &conns[events[i].data.u32];
        if (events[i].events & EPOLLOUT) flush(&c->pipe);
        if (events[i].events & ~(uint32_t)EPOLLOUT) on_readable(c);
    }
}

static bool is_drained(void) {
    for (int i = 0; i < conn_count; i++) {
        if (conns[i].in_flight) return false;
        if (conns[i].subscriber && conns[i].delivered < replies_total) return false;
    }
    return true;
}

static void run(void) {
    int senders = strcmp(opt.mode, "fanout") == 0 ? opt.publishers : conn_count;
    uint64_t start = now_ns();
    measure_from = start + (uint64_t)(opt.warmup * 1e9);
    measure_until = measure_from + (uint64_t)(opt.seconds * 1e9);
    for (int i = 0; i < senders; i++) {
        int window = strcmp(opt.mode, "fanout") == 0 ? opt.window / senders : opt.window;
        for (int w = 0; w < window; w++) send_request(&conns[i], (uint32_t)w, now_ns());
        flush(&conns[i].pipe);
    }
    double cpu_from = -1, cpu_until = 0;
    uint64_t began = 0, ended = 0;
    for (;;) {
        turn(100);
        uint64_t now = now_ns();
        if (cpu_from < 0 && now >= measure_from) cpu_from = cpu_seconds(), began = now;
        if (!is_stopping && now >= measure_until) {
            is_stopping = true;
            cpu_until = cpu_seconds(), ended = now;
        }
        if (is_stopping && is_drained()) break;
        if (now > measure_until + DRAIN_NS) {
            uint64_t least = UINT64_MAX;
            for (int i = 0; i < conn_count; i++)
                if (conns[i].subscriber && conns[i].delivered < least) least = conns[i].delivered;
            die("answers or deliveries are missing: %lu acknowledged, the slowest subscriber has %lu", replies_total, least);
        }
        if (opt.gap_ms > 0 && !is_stopping) {
            for (int i = 0; i < senders; i++) {
                if (conns[i].in_flight) continue;
                struct timespec gap = {.tv_sec = (time_t)(opt.gap_ms / 1e3), .tv_nsec = (long)(opt.gap_ms * 1e6) % 1000000000};
                nanosleep(&gap, NULL);
                send_request(&conns[i], 0, now_ns());
                flush(&conns[i].pipe);
            }
        }
    }
    for (int i = 0; i < conn_count; i++) {
        Conn *c = &conns[i];
        if (c->subscriber && (c->delivered != replies_total || (!is_lease && c->last_n - c->first_n + 1 != c->delivered)))
            die("a subscriber got %lu messages of %lu", c->delivered, replies_total);
    }
    print_figures((Figures){.seconds = (double)(measure_until - measure_from) / 1e9, .replies = replies,
        .replies_total = replies_total, .deliveries = deliveries, .deliveries_total = deliveries_total,
        .client_cpu = (cpu_until - cpu_from) / ((double)(ended - began) / 1e9), .recv_calls = recv_calls,
        .reply_times = &reply_times, .delivery_times = &delivery_times});
}

static void hold(void) {
    printf("holding\n");
    fflush(stdout);
    struct pollfd ends[2] = {{.fd = 0, .events = POLLIN}, {.fd = epoll_fd, .events = POLLIN}};
    for (;;) {
        poll(ends, opt.deaf ? 1 : 2, -1);
        if (ends[0].revents) return;
        turn(0);
    }
}

/* A proper close on each connection, so that no server logs a lost peer; whoever does not answer is left. */
static void close_all(void) {
    const uint8_t normal[2] = {1000 >> 8, 1000 & 255};
    for (int i = 0; i < conn_count; i++) {
        append_frame(&conns[i], 8, normal, 2);
        flush(&conns[i].pipe);
    }
    for (int i = 0; i < conn_count; i++) {
        struct pollfd end = {.fd = conns[i].pipe.fd, .events = POLLIN};
        while (poll(&end, 1, opt.deaf ? 0 : 500) > 0 && recv(conns[i].pipe.fd, in, IN_BYTES, 0) > 0) continue;
        close(conns[i].pipe.fd);
    }
}

int main(int argc, char **argv) {
    static const struct option known[] = {{"mode", 1, 0, 'm'}, {"kind", 1, 0, 'k'}, {"port", 1, 0, 'p'}, {"hellos", 1, 0, 'h'},
        {"subscribe", 1, 0, 'u'}, {"channel", 1, 0, 'n'},
        {"worktree", 1, 0, 't'}, {"path", 1, 0, 'a'}, {"announced", 0, 0, 'A'}, {"connections", 1, 0, 'c'}, {"window", 1, 0, 'w'},
        {"publishers", 1, 0, 'P'}, {"subscribers", 1, 0, 'S'}, {"seconds", 1, 0, 's'}, {"warmup", 1, 0, 'r'},
        {"gap-ms", 1, 0, 'g'}, {"rcvbuf", 1, 0, 'b'}, {"echo", 0, 0, 'e'}, {"deaf", 0, 0, 'd'}, {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'm': opt.mode = optarg; break;
        case 'k': opt.kind = optarg; break;
        case 't': opt.worktree = optarg; break;
        case 'a': opt.path = optarg; break;
        case 'A': opt.announced = true; break;
        case 'p': opt.port = atoi(optarg); break;
        case 'h': opt.hellos = optarg; break;
        case 'u': opt.subscribe = optarg; break;
        case 'n': opt.channel = optarg; break;
        case 'c': opt.connections = atoi(optarg); break;
        case 'w': opt.window = atoi(optarg); break;
        case 'P': opt.publishers = atoi(optarg); break;
        case 'S': opt.subscribers = atoi(optarg); break;
        case 's': opt.seconds = atof(optarg); break;
        case 'r': opt.warmup = atof(optarg); break;
        case 'g': opt.gap_ms = atof(optarg); break;
        case 'b': opt.rcvbuf = atoi(optarg); break;
        case 'e': opt.echo = true; break;
        case 'd': opt.deaf = true; break;
        default: return 2;
        }
    }
    if (opt.window > LANES) die("at most %d in flight", LANES);
    bool is_fanout = strcmp(opt.mode, "fanout") == 0;
    if (is_fanout && opt.window % opt.publishers) die("the window must be a multiple of the publishers");
    conn_count = is_fanout ? opt.publishers + opt.subscribers : opt.connections;
    is_channel = strcmp(opt.kind, "channel") == 0;
    is_lease = is_channel || strcmp(opt.kind, "claim") == 0;
    has_version = strcmp(opt.kind, "value") == 0 || strcmp(opt.kind, "task") == 0;
    if (is_lease && is_fanout) die("claims are announced with --announced");
    if (is_channel && !opt.announced) die("synapse-channel announces whatever one does");
    prepare_requests();
    open_all();
    if (strcmp(opt.mode, "hold") == 0) hold();
    else run();
    close_all();
    return 0;
}
