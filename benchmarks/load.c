/* Load generator of the benchmarks: one thread, one epoll, WebSocket frames with a fixed mask.
 *
 * Modes
 *   request  C connections with W requests in flight each; every answer is checked (id, and either `"type":"reply"` or
 *            equality with what was sent).
 *   fanout   P publishers with W requests in flight together, S subscribers; each subscriber's `"n":` must be gapless,
 *            and at the end each must have exactly as many messages as were acknowledged.
 *   hold     C connections are opened and kept until stdin ends; with --deaf they are never read again.
 *
 * Answers are counted inside the measured window only; totals cover everything, so they can be compared with the
 * journal. One write() per connection and wake-up, for every server alike. One JSON object on stdout; a word on stderr
 * and exit 1 when an answer is wrong, missing or a refusal.
 */
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

#define IN_BYTES (512 * 1024)
#define WINDOW_MAX 256
#define ID_DIGITS 8
#define STAMP_LETTERS 12
#define BODY_CHARS 120
#define DRAIN_NS 15000000000ull

static const uint8_t MASK[4] = {0x37, 0xfa, 0x21, 0x3d};

typedef struct {
    int fd;
    bool subscriber;
    uint8_t *rest; /* the beginning of a frame that has not arrived whole */
    size_t rest_len, rest_cap;
    uint8_t *out;
    size_t out_len, out_off, out_cap;
    bool wants_out;
    uint32_t next_id, in_flight;
    uint64_t sent_at[WINDOW_MAX];
    uint32_t sent_id[WINDOW_MAX];
    bool waiting[WINDOW_MAX];
    uint64_t first_n, last_n, delivered;
    size_t n_offset, stamp_offset; /* where they stood in the last frame: the first guess for the next one */
} Conn;

/* Log-linear histogram: 64 steps to a doubling, so a percentile is within 1.6 %. */
typedef struct {
    uint64_t counts[64 * 40], total, max;
} Histogram;

static struct {
    const char *mode, *hellos, *subscribe, *channel;
    int port, connections, window, publishers, subscribers, rcvbuf;
    double seconds, warmup, gap_ms;
    bool echo, deaf;
} opt = {.mode = "request", .channel = "main:general", .connections = 1, .window = 1, .seconds = 1, .warmup = 0.3};

static Conn *conns;
static int conn_count, epoll_fd;
static uint8_t in[IN_BYTES];
static uint8_t request[512], plain[512];
static size_t request_len, id_at, stamp_at, header_len;
static uint64_t measure_from, measure_until, recv_calls;
static uint64_t replies, replies_total, deliveries, deliveries_total;
static bool is_stopping;
static Histogram reply_times, delivery_times;

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

static void append(Conn *c, const uint8_t *data, size_t len) {
    if (c->out_len + len > c->out_cap) {
        c->out_cap = (c->out_len + len) * 2;
        c->out = realloc(c->out, c->out_cap);
    }
    memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
}

static void append_frame(Conn *c, uint8_t opcode, const uint8_t *payload, size_t len) {
    uint8_t *frame = malloc(len + 16);
    size_t at = put_header(frame, opcode, len);
    for (size_t i = 0; i < len; i++) frame[at + i] = payload[i] ^ MASK[i & 3];
    append(c, frame, at + len);
    free(frame);
}

/* The request once, masked; an id and a time stamp are written into it for each send. Letters for the stamp: a number
 * that long is a case of its own for a strict JSON reader. */
static void prepare_request(void) {
    char body[BODY_CHARS + 1], text[512];
    const char *words = "the tests of the scheduler pass again; I take the parser next, please review when you have a minute. ";
    for (int i = 0; i < BODY_CHARS; i++) body[i] = words[i % (int)strlen(words)];
    body[BODY_CHARS] = 0;
    memset(body, 'a', STAMP_LETTERS);
    body[STAMP_LETTERS] = ' ';
    int len = snprintf(text, sizeof text,
        "{\"type\":\"message.send\",\"id\":\"r%0*d\",\"body\":{\"channel\":\"%s\",\"body\":\"%s\"}}", ID_DIGITS, 0,
        opt.channel, body);
    header_len = put_header(request, 1, (size_t)len);
    id_at = (size_t)(strstr(text, "\"id\":\"r") - text) + 7;
    stamp_at = (size_t)(strstr(text, "\"body\":\"") - text) + 8;
    for (int i = 0; i < len; i++) request[header_len + (size_t)i] = (uint8_t)text[i] ^ MASK[i & 3];
    memcpy(plain, text, (size_t)len);
    request_len = header_len + (size_t)len;
}

static void write_id(uint8_t *payload, uint32_t id, bool masked) {
    for (size_t i = ID_DIGITS; i-- > 0; id /= 10)
        payload[id_at + i] = (uint8_t)('0' + id % 10) ^ (masked ? MASK[(id_at + i) & 3] : 0);
}

static void write_stamp(uint8_t *payload, uint64_t stamp, bool masked) {
    for (size_t i = STAMP_LETTERS; i-- > 0; stamp >>= 4)
        payload[stamp_at + i] = (uint8_t)('a' + (stamp & 15)) ^ (masked ? MASK[(stamp_at + i) & 3] : 0);
}

static void send_request(Conn *c, uint64_t now) {
    uint32_t id = c->next_id++, slot = id % WINDOW_MAX;
    if (c->waiting[slot]) die("request %u is still unanswered after %d others", c->sent_id[slot], WINDOW_MAX);
    write_id(request + header_len, id, true);
    write_stamp(request + header_len, now, true);
    c->waiting[slot] = true;
    c->sent_at[slot] = now;
    c->sent_id[slot] = id;
    c->in_flight++;
    append(c, request, request_len);
}

static void flush(Conn *c) {
    while (c->out_off < c->out_len) {
        ssize_t n = send(c->fd, c->out + c->out_off, c->out_len - c->out_off, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EINTR) continue;
            if (errno != EAGAIN) die("send: %s", strerror(errno));
            break;
        }
        c->out_off += (size_t)n;
    }
    bool wants = c->out_off < c->out_len;
    if (!wants) c->out_off = c->out_len = 0;
    if (wants != c->wants_out) {
        struct epoll_event e = {.events = EPOLLIN | (wants ? EPOLLOUT : 0), .data.u32 = (uint32_t)(c - conns)};
        epoll_ctl(epoll_fd, EPOLL_CTL_MOD, c->fd, &e);
        c->wants_out = wants;
    }
}

/* ---- what arrives ---------------------------------------------------------------------------------------------- */

static const uint8_t *find(const uint8_t *data, size_t len, size_t from, const char *needle, size_t *guess) {
    size_t size = strlen(needle);
    if (*guess >= from && *guess + size <= len && memcmp(data + *guess, needle, size) == 0) return data + *guess + size;
    const uint8_t *hit = from < len ? memmem(data + from, len - from, needle, size) : NULL;
    if (hit == NULL) return NULL;
    *guess = (size_t)(hit - data);
    return hit + size;
}

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

static void on_reply(Conn *c, const uint8_t *data, size_t len, uint64_t now) {
    static const char head[] = "{\"type\":\"reply\",\"id\":\"r";
    size_t start = opt.echo ? id_at : sizeof head - 1;
    if (!opt.echo && (len < start || memcmp(data, head, start) != 0)) die("not a reply: %.*s", (int)len, data);
    uint32_t id = 0;
    for (size_t i = 0; i < ID_DIGITS; i++) {
        if (start + i >= len || data[start + i] < '0' || data[start + i] > '9') die("no id: %.*s", (int)len, data);
        id = id * 10 + (uint32_t)(data[start + i] - '0');
    }
    uint32_t slot = id % WINDOW_MAX;
    if (!c->waiting[slot] || c->sent_id[slot] != id) die("an answer to %u, which was not asked", id);
    if (opt.echo) {
        write_id(plain, id, false);
        write_stamp(plain, c->sent_at[slot], false);
        if (len != request_len - header_len || memcmp(data, plain, len) != 0) die("a changed echo: %.*s", (int)len, data);
    }
    c->waiting[slot] = false;
    c->in_flight--;
    replies_total++;
    if (now >= measure_from && now < measure_until) {
        replies++;
        note(&reply_times, now - c->sent_at[slot]);
    }
    if (!is_stopping && opt.gap_ms == 0) send_request(c, now);
}

static void on_frame(Conn *c, uint8_t opcode, const uint8_t *data, size_t len, uint64_t now) {
    if (opcode == 1) {
        static const char notice[] = "{\"type\":\"message\",";
        if (c->subscriber && len > sizeof notice && memcmp(data, notice, sizeof notice - 1) == 0) on_message(c, data, len, now);
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
    ssize_t n = recv(c->fd, in + c->rest_len, IN_BYTES - c->rest_len, 0);
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
    flush(c);
}

/* ---- opening --------------------------------------------------------------------------------------------------- */

static void send_all(Conn *c, const void *data, size_t len) {
    for (size_t at = 0; at < len;) {
        ssize_t n = send(c->fd, (const char *)data + at, len - at, MSG_NOSIGNAL);
        if (n < 0) die("send: %s", strerror(errno));
        at += (size_t)n;
    }
}

static void read_more(Conn *c) {
    uint8_t chunk[16384];
    ssize_t n = recv(c->fd, chunk, sizeof chunk, 0);
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
    send_all(c, c->out, c->out_len);
    c->out_len = 0;
    for (;;) {
        size_t payload_at, whole = frame_at(c->rest, c->rest_len, &payload_at);
        if (whole == 0) {
            read_more(c);
            continue;
        }
        const char *payload = (const char *)c->rest + payload_at;
        int size = (int)(whole - payload_at);
        if ((c->rest[0] & 15) == 8 || strncmp(payload, "{\"type\":\"error\"", 15) == 0) die("refused: %.*s", size, payload);
        bool is_reply = strncmp(payload, "{\"type\":\"reply\"", 15) == 0;
        memmove(c->rest, c->rest + whole, c->rest_len - whole);
        c->rest_len -= whole;
        if (is_reply) return;
    }
}

static void open_one(Conn *c, const char *hello) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->rest_cap = 65536;
    c->rest = malloc(c->rest_cap);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->fd < 0) die("socket: %s", strerror(errno));
    if (opt.rcvbuf) setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &opt.rcvbuf, sizeof opt.rcvbuf);
    int yes = 1;
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    struct timeval patience = {.tv_sec = 20};
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    if (connect(c->fd, (struct sockaddr *)&to, sizeof to) < 0) die("connect to port %d: %s", opt.port, strerror(errno));
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
        conns[i].subscriber = strcmp(opt.mode, "fanout") == 0 && i >= opt.publishers;
        open_one(&conns[i], file == NULL ? NULL : line);
        fcntl(conns[i].fd, F_SETFL, fcntl(conns[i].fd, F_GETFL) | O_NONBLOCK);
        struct epoll_event e = {.events = EPOLLIN, .data.u32 = (uint32_t)i};
        if (!opt.deaf) epoll_ctl(epoll_fd, EPOLL_CTL_ADD, conns[i].fd, &e);
    }
    if (file != NULL) fclose(file);
}

/* ---- running --------------------------------------------------------------------------------------------------- */

static void turn(int timeout_ms) {
    static struct epoll_event events[512];
    int n = epoll_wait(epoll_fd, events, 512, timeout_ms);
    for (int i = 0; i < n; i++) {
        Conn *c = &conns[events[i].data.u32];
        if (events[i].events & EPOLLOUT) flush(c);
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
        for (int w = 0; w < window; w++) send_request(&conns[i], now_ns());
        flush(&conns[i]);
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
                send_request(&conns[i], now_ns());
                flush(&conns[i]);
            }
        }
    }
    for (int i = 0; i < conn_count; i++) {
        Conn *c = &conns[i];
        if (c->subscriber && (c->delivered != replies_total || c->last_n - c->first_n + 1 != c->delivered))
            die("a subscriber got %lu messages of %lu", c->delivered, replies_total);
    }
    double seconds = (double)(measure_until - measure_from) / 1e9;
    printf("{\"seconds\":%.3f,\"replies\":%lu,\"replies_total\":%lu,\"replies_per_s\":%.1f,\"p50_us\":%.1f,\"p99_us\":%.1f,"
           "\"max_us\":%.1f,\"deliveries\":%lu,\"deliveries_total\":%lu,\"deliveries_per_s\":%.1f,\"delivery_p50_us\":%.1f,"
           "\"delivery_p99_us\":%.1f,\"delivery_max_us\":%.1f,\"client_cpu\":%.3f,\"recv_calls\":%lu}\n",
        seconds, replies, replies_total, (double)replies / seconds, percentile_us(&reply_times, 0.5),
        percentile_us(&reply_times, 0.99), (double)reply_times.max / 1e3, deliveries, deliveries_total,
        (double)deliveries / seconds, percentile_us(&delivery_times, 0.5), percentile_us(&delivery_times, 0.99),
        (double)delivery_times.max / 1e3, (cpu_until - cpu_from) / ((double)(ended - began) / 1e9), recv_calls);
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
        flush(&conns[i]);
    }
    for (int i = 0; i < conn_count; i++) {
        struct pollfd end = {.fd = conns[i].fd, .events = POLLIN};
        while (poll(&end, 1, opt.deaf ? 0 : 500) > 0 && recv(conns[i].fd, in, IN_BYTES, 0) > 0) continue;
        close(conns[i].fd);
    }
}

int main(int argc, char **argv) {
    static const struct option known[] = {{"mode", 1, 0, 'm'}, {"port", 1, 0, 'p'}, {"hellos", 1, 0, 'h'},
        {"subscribe", 1, 0, 'u'}, {"channel", 1, 0, 'n'}, {"connections", 1, 0, 'c'}, {"window", 1, 0, 'w'},
        {"publishers", 1, 0, 'P'}, {"subscribers", 1, 0, 'S'}, {"seconds", 1, 0, 's'}, {"warmup", 1, 0, 'r'},
        {"gap-ms", 1, 0, 'g'}, {"rcvbuf", 1, 0, 'b'}, {"echo", 0, 0, 'e'}, {"deaf", 0, 0, 'd'}, {0, 0, 0, 0}};
    for (int c; (c = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (c) {
        case 'm': opt.mode = optarg; break;
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
    if (opt.window > WINDOW_MAX) die("at most %d in flight", WINDOW_MAX);
    bool is_fanout = strcmp(opt.mode, "fanout") == 0;
    if (is_fanout && opt.window % opt.publishers) die("the window must be a multiple of the publishers");
    conn_count = is_fanout ? opt.publishers + opt.subscribers : opt.connections;
    prepare_request();
    open_all();
    if (strcmp(opt.mode, "hold") == 0) hold();
    else run();
    close_all();
    return 0;
}
