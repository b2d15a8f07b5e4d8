/* What load.c sends and how each answer is checked. Part of load.c, which includes it once, below its state.
 *
 * Kinds
 *   message  a durable message to one channel.
 *   claim    a lease of the hub, claimed and released in turn; each of the two is a request of its own.
 *   value    a value of a room, put again and again under a key of the lane's own.
 *   task     a task of the plan, declared again and again with another title; it depends on five others.
 *   channel  the same two in the words of synapse-channel, which answers by telling every connection.
 *
 * A lane is one request in flight. Lane L of connection C asks about task C * LANES + L and nobody else does, so a lease
 * is given back by the next request of its lane. At the end whatever is held is given back, so that a run leaves nothing.
 */

#define EPOCH_OF_ECHO 3661427671041234ull /* of the width that the hub's numbers have */

enum { ID = 1, TASK, SENDER, EPOCH, STAMP };
static const size_t WIDTHS[] = {[ID] = 8, [TASK] = 7, [SENDER] = 4, [EPOCH] = 16, [STAMP] = STAMP_LETTERS};

/* A request, plain and masked, with the places that differ from send to send. */
typedef struct {
    uint8_t plain[512], frame[528];
    size_t len, header, field_count;
    struct { uint8_t what; size_t at; } fields[8];
} Template;

static Template templates[2]; /* of leases: claim and release; else only the first */

/* Make a template of a text in which one byte, a field's number, stands for the field. */
static void prepare(Template *t, const char *text) {
    for (const char *from = text; *from; from++) {
        uint8_t what = (uint8_t)*from < sizeof WIDTHS / sizeof *WIDTHS ? (uint8_t)*from : 0;
        size_t width = what ? WIDTHS[what] : 1;
        if (t->len + width > sizeof t->plain) die("the request is too long");
        if (what) {
            if (t->field_count == sizeof t->fields / sizeof *t->fields) die("the request has too many fields");
            t->fields[t->field_count].what = what;
            t->fields[t->field_count++].at = t->len;
            memset(t->plain + t->len, '0', width);
        } else {
            t->plain[t->len] = (uint8_t)*from;
        }
        t->len += width;
    }
    t->header = put_header(t->frame, 1, t->len);
    for (size_t i = 0; i < t->len; i++) t->frame[t->header + i] = t->plain[i] ^ MASK[i & 3];
}

static void prepare_requests(void) {
    char text[1024], body[BODY_CHARS + 1], path[256];
    if (strcmp(opt.kind, "message") == 0) {
        const char *words = "the tests of the scheduler pass again; I take the parser next, please review when you have a minute. ";
        for (int i = 0; i < BODY_CHARS; i++) body[i] = words[i % (int)strlen(words)];
        body[BODY_CHARS] = 0;
        snprintf(text, sizeof text, "{\"type\":\"message.send\",\"id\":\"r\1\",\"body\":{\"channel\":\"%s\",\"body\":\"\5 %s\"}}",
            opt.channel, body + STAMP_LETTERS + 1);
        prepare(&templates[0], text);
        return;
    }
    if (strcmp(opt.kind, "value") == 0) {
        prepare(&templates[0], "{\"type\":\"value.put\",\"id\":\"r\1\",\"body\":{\"key\":\"bench/\2\",\"value\":"
            "{\"state\":\"\5\",\"words\":\"the tests of the scheduler pass again\",\"at\":[12,34]}}}");
        return;
    }
    if (strcmp(opt.kind, "task") == 0) {
        prepare(&templates[0], "{\"type\":\"task.declare\",\"id\":\"r\1\",\"body\":{\"task\":\"bench-\2\",\"title\":\"\5 work\","
            "\"depends_on\":[\"plan-00001\",\"plan-02500\",\"plan-05000\",\"plan-07500\",\"plan-09999\"]}}");
        return;
    }
    snprintf(path, sizeof path, "%s", opt.path);
    char *number = strchr(path, '#');
    if (number == NULL) die("--path %s has no # for the number", opt.path);
    *number = TASK;
    if (strcmp(opt.kind, "claim") == 0) {
        snprintf(text, sizeof text,
            "{\"type\":\"lease.claim\",\"id\":\"r\1\",\"body\":{\"task\":\"bench-\2\",\"worktree\":\"%s\",\"paths\":[\"%s\"]}}",
            opt.worktree, path);
        prepare(&templates[0], text);
        prepare(&templates[1], "{\"type\":\"lease.release\",\"id\":\"r\1\",\"body\":{\"task\":\"bench-\2\",\"epoch\":\4}}");
        return;
    }
    if (strcmp(opt.kind, "channel") != 0) die("there is no kind %s", opt.kind);
    const char *head = "{\"sender\": \"bench-\3\", \"target\": \"System\", \"type\": \"%s\", \"payload\": \"bench-\2\", "
                       "\"timestamp\": %ld.25, \"task_id\": \"bench-\2\", ";
    size_t len = (size_t)snprintf(text, sizeof text, head, "claim", (long)time(NULL));
    snprintf(text + len, sizeof text - len, "\"note\": \"\", \"paths\": [\"%s\"]}", path);
    prepare(&templates[0], text);
    len = (size_t)snprintf(text, sizeof text, head, "release", (long)time(NULL));
    snprintf(text + len, sizeof text - len, "\"epoch\": \4}");
    prepare(&templates[1], text);
}

static void put_field(uint8_t *to, uint8_t what, const Conn *c, const Lane *l) {
    uint32_t connection = (uint32_t)(c - conns), lane = (uint32_t)(l - c->lanes);
    char epoch[32];
    switch (what) {
    case ID: put_digits(to, WIDTHS[ID], l->sent_id); break;
    case TASK: put_digits(to, WIDTHS[TASK], connection * LANES + lane); break;
    case SENDER: put_digits(to, WIDTHS[SENDER], connection + 1); break;
    case EPOCH: /* JSON knows no leading zeros, but blanks after a number */
        snprintf(epoch, sizeof epoch, "%-16lu", l->epoch);
        memcpy(to, epoch, WIDTHS[EPOCH]);
        break;
    case STAMP: /* letters: a number that long is a case of its own for a strict JSON reader */
        for (size_t i = STAMP_LETTERS, stamp = l->sent_at; i-- > 0; stamp >>= 4) to[i] = (uint8_t)('a' + (stamp & 15));
        break;
    }
}

/* The request that the lane's state asks for; its plain text is that of the last lane filled in. */
static Template *fill(const Conn *c, const Lane *l) {
    Template *t = &templates[l->holds ? 1 : 0];
    for (size_t f = 0; f < t->field_count; f++) {
        size_t at = t->fields[f].at, end = at + WIDTHS[t->fields[f].what];
        put_field(t->plain + at, t->fields[f].what, c, l);
        for (size_t i = at; i < end; i++) t->frame[t->header + i] = t->plain[i] ^ MASK[i & 3];
    }
    return t;
}

static void send_request(Conn *c, uint32_t lane, uint64_t now) {
    Lane *l = &c->lanes[lane];
    if (l->waiting) die("request %u is still unanswered", l->sent_id);
    l->waiting = true;
    l->sent_at = now;
    l->sent_id = l->turn++ * LANES + lane;
    c->in_flight++;
    const Template *t = fill(c, l);
    append(&c->pipe, t->frame, t->header + t->len);
}

/* ---- answers --------------------------------------------------------------------------------------------------- */

static uint64_t digits_at(const uint8_t *at, const uint8_t *end) {
    uint64_t n = 0;
    if (at >= end || *at < '0' || *at > '9') return UINT64_MAX;
    while (at < end && *at >= '0' && *at <= '9') n = n * 10 + (uint64_t)(*at++ - '0');
    return n;
}

/* The number after `key`, which must be there. */
static uint64_t number_of(const uint8_t *data, size_t len, const char *key, size_t *guess) {
    const uint8_t *at = find(data, len, 0, key, guess);
    uint64_t n = at == NULL ? UINT64_MAX : digits_at(at, data + len);
    if (n == UINT64_MAX) die("no %s in %.*s", key, (int)len, data);
    return n;
}

static void on_answer(Conn *c, Lane *l, uint64_t now) {
    l->waiting = false;
    c->in_flight--;
    replies_total++;
    if (now >= measure_from && now < measure_until) {
        replies++;
        note(&reply_times, now - l->sent_at);
    }
    if (is_lease) l->holds = !l->holds;
    if ((!is_stopping && opt.gap_ms == 0) || l->holds) send_request(c, (uint32_t)(l - c->lanes), now);
}

/* A grant has a higher epoch than any before it of this lane; a release is of that same grant. */
static void take_epoch(Lane *l, uint64_t epoch, const uint8_t *data, size_t len) {
    if (l->holds ? epoch != l->epoch : epoch <= l->epoch) die("epoch %lu after %lu: %.*s", epoch, l->epoch, (int)len, data);
    l->epoch = epoch;
}

static void check_lease(const Conn *c, Lane *l, const uint8_t *data, size_t len) {
    static size_t guesses[5];
    uint32_t connection = (uint32_t)(c - conns);
    if (number_of(data, len, "\"task\":\"bench-", &guesses[0]) != connection * LANES + (uint32_t)(l - c->lanes))
        die("an answer about another task: %.*s", (int)len, data);
    take_epoch(l, number_of(data, len, "\"epoch\":", &guesses[1]), data, len);
    if (l->holds) {
        if (find(data, len, 0, "\"released\":true", &guesses[2]) == NULL) die("not released: %.*s", (int)len, data);
        return;
    }
    if (number_of(data, len, "\"owner\":\"bench-", &guesses[3]) != connection + 1) die("of another: %.*s", (int)len, data);
    if (find(data, len, 0, "\"outcome\":\"granted\"", &guesses[4]) == NULL) die("not granted: %.*s", (int)len, data);
}

/* A value or a task of this lane, with a version above that of its last change. */
static void check_version(const Conn *c, Lane *l, const uint8_t *data, size_t len) {
    static size_t guesses[2];
    const char *key = strcmp(opt.kind, "value") == 0 ? "\"key\":\"bench/" : "\"task\":\"bench-";
    if (number_of(data, len, key, &guesses[0]) != (uint64_t)(c - conns) * LANES + (uint64_t)(l - c->lanes))
        die("an answer about another: %.*s", (int)len, data);
    uint64_t version = number_of(data, len, "\"version\":", &guesses[1]);
    if (version <= l->epoch) die("version %lu after %lu: %.*s", version, l->epoch, (int)len, data);
    l->epoch = version;
}

static void on_reply(Conn *c, const uint8_t *data, size_t len, uint64_t now) {
    static const char head[] = "{\"type\":\"reply\",\"id\":\"r";
    static size_t guess;
    const uint8_t *at = data + sizeof head - 1;
    if (opt.echo) at = find(data, len, 0, "\"id\":\"r", &guess);
    else if (len < sizeof head || memcmp(data, head, sizeof head - 1) != 0) die("not a reply: %.*s", (int)len, data);
    uint64_t id = at == NULL ? UINT64_MAX : digits_at(at, data + len);
    Lane *l = &c->lanes[id % LANES];
    if (id == UINT64_MAX || !l->waiting || l->sent_id != id) die("an answer to what was not asked: %.*s", (int)len, data);
    if (opt.echo) {
        const Template *t = fill(c, l);
        if (len != t->len || memcmp(data, t->plain, len) != 0) die("a changed echo: %.*s", (int)len, data);
        if (is_lease) l->epoch = EPOCH_OF_ECHO;
    } else if (is_lease) {
        check_lease(c, l, data, len);
    } else if (has_version) {
        check_version(c, l, data, len);
    }
    on_answer(c, l, now);
}

/* Grant and release of a task must alternate for each who is told. */
static void on_change(Conn *c, uint64_t task, bool is_grant, const uint8_t *data, size_t len, uint64_t now) {
    if (task >= (uint64_t)conn_count * LANES || c->held[task] == is_grant) die("out of turn: %.*s", (int)len, data);
    c->held[task] = is_grant;
    c->delivered++;
    deliveries_total++;
    if (now >= measure_from && now < measure_until) deliveries++;
}

/* A `lease.changed` notice of the hub; the numbers of one connection's notices rise. */
static void on_lease_changed(Conn *c, const uint8_t *data, size_t len, uint64_t now) {
    static size_t guesses[3];
    uint64_t seq = number_of(data, len, "\"seq\":", &guesses[0]);
    if (seq <= c->last_n) die("a notice with number %lu after %lu", seq, c->last_n);
    c->last_n = seq;
    const uint8_t *change = find(data, len, 0, "\"change\":\"", &guesses[1]);
    bool is_grant = change != NULL && change + 8 < data + len && memcmp(change, "granted\"", 8) == 0;
    if (!is_grant && (change == NULL || change + 9 > data + len || memcmp(change, "released\"", 9) != 0))
        die("unforeseen: %.*s", (int)len, data);
    on_change(c, number_of(data, len, "\"task\":\"bench-", &guesses[2]), is_grant, data, len, now);
}

/* A frame of synapse-channel. What is announced of one's own task is the answer. */
static void on_channel(Conn *c, const uint8_t *data, size_t len, uint64_t now) {
    static size_t guesses[5];
    bool is_grant = find(data, len, 0, "\"type\": \"claim_granted\"", &guesses[0]) != NULL;
    if (!is_grant && find(data, len, 0, "\"type\": \"release_granted\"", &guesses[1]) == NULL) {
        if (memmem(data, len, "\"type\": \"presence_update\"", 25) != NULL) return;
        die("unforeseen: %.*s", (int)len, data);
    }
    uint64_t task = number_of(data, len, "\"task_id\": \"bench-", &guesses[2]);
    on_change(c, task, is_grant, data, len, now);
    if (task / LANES + 1 != number_of(data, len, "\"owner\": \"bench-", &guesses[3])) die("of another: %.*s", (int)len, data);
    if (task / LANES != (uint64_t)(c - conns)) return;
    Lane *l = &c->lanes[task % LANES];
    if (!l->waiting || l->holds == is_grant) die("an answer to what was not asked: %.*s", (int)len, data);
    if (is_grant) take_epoch(l, number_of(data, len, "\"epoch\": ", &guesses[4]), data, len);
    on_answer(c, l, now);
}
