/*
 * Steady: a small reliable protocol, as an example of a protocol library. From here to iperf3 running over it:
 * docs/protocols.md.
 *
 *     cc -O2 -shared -fPIC -I stack/plugin/include -o libsteady.so examples/protocol/steady.c
 *
 * Streams of bytes over IP protocol 253. The header, 32 bytes in network order:
 *
 *     0  source port           2  destination port
 *     4  tag of the receiver   8  tag of the sender
 *    12  sequence: low 32 bits of the position of the first byte; the end of a stream counts as one byte
 *    16  acknowledgement      20  gap: behind the acknowledged bytes, up to here, some are missing
 *    24  window in bytes      28  flags, 29 zero      30  Internet checksum
 *
 * Opening: HELLO with the opener's tag; HELLO|ACK with both; then ACK. The listener's tag is a keyed hash of the flow and
 * the opener's tag, so it keeps nothing until the third packet. A packet with the wrong tags is ignored: blind attackers and
 * packets of earlier connections miss. There is one window of bytes on their way: slow start, additive increase,
 * halved by a loss. A gap told three times is sent again; a timer does the rest.
 *
 * It is made to be read, not to serve thousands: timers and packets are looked for in all connections.
 */
#include "freena_protocol.h"
#include <stdlib.h>
#include <string.h>

enum { HELLO = 1, ACK = 2, END = 4, RESET = 8, ASK = 16 };
enum { HEADER = 32, BUCKETS = 1024, RANGES = 32, REPLIES = 64, TRIES = 12 };
#define NONE FREENA_NONE
#define MS 1000000ull

enum { CONNECTED = 1, ACKNOWLEDGED = 2, RECEIVED = 4, PEER_CLOSED = 8, CLOSED = 16, FAILED = 32, RELEASED = 64 };

struct connection {
	FreenaFlow flow;
	uint32_t next;                  /* in the bucket */
	uint32_t place;                 /* in the list of those in use */
	uint32_t own_tag, peer_tag;
	uint32_t room, limit;           /* bytes behind the IP header; TCP_MAXSEG */
	uint8_t used, open, confirmed, no_delay, ttl, tos;
	uint8_t shut, end_sent, end_acknowledged, peer_end, peer_ended, closed, over, ack_now, say_hello, ask_now;
	uint32_t news, told;            /* events to tell, events told once */
	uint32_t failure;
	/* Sending. */
	uint64_t written, acknowledged, sent, highest, edge;
	uint64_t window, threshold, recover, again, again_end;
	uint32_t repeats, tries;
	uint64_t deadline, rto, srtt, variation, timed_at, timed_position, timing;
	uint64_t retransmitted;
	/* Receiving. */
	uint64_t received, read, buffer, told_edge, end_position;
	struct { uint64_t start, end; } ranges[RANGES];
	uint32_t range_count;
};

struct reply {
	FreenaFlow flow;
	uint32_t own_tag, peer_tag;
	uint8_t flags;
};

struct engine {
	FreenaConfig config;
	struct connection *connections; /* by number */
	uint32_t *used, used_count, turn;
	uint32_t buckets[BUCKETS];
	struct reply replies[REPLIES];
	uint32_t reply_count, counter;
};

static void put16(uint8_t *to, uint32_t v) { to[0] = v >> 8; to[1] = v; }
static void put32(uint8_t *to, uint32_t v) { put16(to, v >> 16); put16(to + 2, v & 0xffff); }
static uint32_t get16(const uint8_t *at) { return (uint32_t)at[0] << 8 | at[1]; }
static uint32_t get32(const uint8_t *at) { return get16(at) << 16 | get16(at + 2); }
static uint64_t least(uint64_t a, uint64_t b) { return a < b ? a : b; }
static uint64_t most(uint64_t a, uint64_t b) { return a > b ? a : b; }

/* The position nearest to `near` with these low bits. */
static uint64_t position(uint64_t near, uint32_t low) { return near + (int64_t)(int32_t)(low - (uint32_t)near); }

/* A keyed mix of a flow: not cryptography, but nothing that can be guessed in the life of a connection. */
static uint64_t mix(const struct engine *e, const FreenaFlow *flow, uint64_t more)
{
	const uint8_t *bytes = (const uint8_t *)flow;
	uint64_t key[4], hash = more * 0x9e3779b97f4a7c15ull;
	memcpy(key, e->config.secret, sizeof key);
	hash ^= key[0];
	for (size_t i = 0; i < sizeof *flow; i++)
		hash = (hash ^ bytes[i]) * 0x100000001b3ull + key[1 + i % 3];
	hash = (hash ^ hash >> 30) * 0xbf58476d1ce4e5b9ull;
	hash = (hash ^ hash >> 27) * 0x94d049bb133111ebull;
	return hash ^ hash >> 31;
}

static uint32_t bucket(const struct engine *e, const FreenaFlow *flow) { return mix(e, flow, 0) % BUCKETS; }
static uint32_t tag(const struct engine *e, const FreenaFlow *flow, uint64_t more) { return (uint32_t)mix(e, flow, more) | 1; }

static uint32_t find(const struct engine *e, const FreenaFlow *flow)
{
	uint32_t n = e->buckets[bucket(e, flow)];
	while (n != NONE && memcmp(&e->connections[n].flow, flow, sizeof *flow))
		n = e->connections[n].next;
	return n;
}

static struct connection *begin(struct engine *e, uint32_t n, const FreenaFlow *flow, uint64_t buffer)
{
	struct connection *c = &e->connections[n];
	uint32_t *head = &e->buckets[bucket(e, flow)];
	memset(c, 0, sizeof *c);
	c->flow = *flow;
	c->next = *head;
	*head = n;
	c->place = e->used_count;
	e->used[e->used_count++] = n;
	c->used = 1;
	c->ttl = 64;
	c->buffer = c->told_edge = buffer;
	c->rto = 200 * MS;
	c->deadline = FREENA_NEVER;
	c->threshold = UINT64_MAX;
	return c;
}

/* From now on packets do not find it. */
static void unlink_flow(struct engine *e, uint32_t n)
{
	uint32_t *at = &e->buckets[bucket(e, &e->connections[n].flow)];
	while (*at != NONE && *at != n)
		at = &e->connections[*at].next;
	if (*at == n)
		*at = e->connections[n].next;
}

static void options_of(struct connection *c, const FreenaOptions *options)
{
	c->no_delay = options->no_delay;
	c->ttl = options->ttl;
	c->tos = options->tos;
	c->limit = options->max_segment;
}

static uint32_t segment(const struct connection *c)
{
	uint32_t most_bytes = c->room > HEADER + 64 ? c->room - HEADER : 64;
	return c->limit ? (uint32_t)least(c->limit, most_bytes) : most_bytes;
}

static void note(struct connection *c, uint32_t event) { c->news |= event; }

static void release(struct engine *e, uint32_t n)
{
	(void)e;
	e->connections[n].over = 1;
	e->connections[n].deadline = FREENA_NEVER;
	note(&e->connections[n], RELEASED);
}

static void reply(struct engine *e, const FreenaFlow *flow, uint32_t own_tag, uint32_t peer_tag, uint8_t flags)
{
	if (e->reply_count < REPLIES)
		e->replies[e->reply_count++] = (struct reply){ *flow, own_tag, peer_tag, flags };
}

static void fail(struct engine *e, uint32_t n, uint32_t failure)
{
	struct connection *c = &e->connections[n];
	if (c->closed) {
		release(e, n);
	} else if (!c->over) {
		c->over = 1;
		c->deadline = FREENA_NEVER;
		c->failure = failure;
		if (!(c->told & CLOSED))
			note(c, FAILED);
	}
}

static void reset(struct engine *e, uint32_t n, uint32_t failure)
{
	struct connection *c = &e->connections[n];
	if (!c->over)
		reply(e, &c->flow, c->own_tag, c->peer_tag, RESET);
	fail(e, n, failure);
}

/* What is left to do once both directions may have ended. */
static void settle(struct engine *e, uint32_t n, uint64_t now)
{
	struct connection *c = &e->connections[n];
	if (c->over || !c->end_acknowledged)
		return;
	if (c->peer_ended) {
		if (c->closed) {
			/* The peer may not know yet that we have its end: answer for a while. */
			c->deadline = least(c->deadline, now + 1000 * MS);
		} else if (!(c->told & CLOSED)) {
			note(c, CLOSED);
			c->told |= CLOSED;
		}
	} else if (c->closed && c->deadline == FREENA_NEVER) {
		c->deadline = now + 60000 * MS;
	}
}

/* ---- calls ---- */

static void *create(const FreenaConfig *config)
{
	struct engine *e = calloc(1, sizeof *e);
	if (!e)
		return NULL;
	e->config = *config;
	/* Memory that is not touched is not used. */
	e->connections = calloc(config->max_connections, sizeof *e->connections);
	e->used = calloc(config->max_connections, sizeof *e->used);
	for (int i = 0; i < BUCKETS; i++)
		e->buckets[i] = NONE;
	if (e->connections && e->used)
		return e;
	free(e->connections);
	free(e->used);
	free(e);
	return NULL;
}

static void destroy(void *engine)
{
	struct engine *e = engine;
	free(e->connections);
	free(e->used);
	free(e);
}

static uint32_t connect_to(void *engine, uint64_t now, uint32_t n, const FreenaFlow *flow, const FreenaPath *path,
			   uint64_t buffer, const FreenaOptions *options)
{
	struct engine *e = engine;
	struct connection *c;
	if (find(e, flow) != NONE)
		return FREENA_CONNECT_IN_USE;
	c = begin(e, n, flow, buffer);
	c->own_tag = tag(e, flow, ++e->counter + (now << 16));
	c->room = path->room;
	c->say_hello = 1;
	c->deadline = now + c->rto;
	options_of(c, options);
	return FREENA_CONNECTING;
}

static void opened(struct connection *c)
{
	c->open = 1;
	c->say_hello = 0;
	c->tries = 0;
	c->deadline = FREENA_NEVER;
	c->window = 10 * (uint64_t)segment(c);
}

static void measure(struct connection *c, uint64_t took)
{
	if (!c->srtt) {
		c->srtt = took;
		c->variation = took / 2;
	} else {
		uint64_t off = took > c->srtt ? took - c->srtt : c->srtt - took;
		c->variation = (3 * c->variation + off) / 4;
		c->srtt = (7 * c->srtt + took) / 8;
	}
	c->rto = least(most(c->srtt + most(4 * c->variation, 10 * MS), 20 * MS), 2000 * MS);
}

static uint64_t end_of(const struct connection *c) { return c->written + (c->shut ? 1 : 0); }

static void acknowledged(struct engine *e, uint32_t n, uint64_t now, uint64_t to, uint64_t gap)
{
	struct connection *c = &e->connections[n];
	if (to > c->acknowledged) {
		uint64_t came = to - c->acknowledged, before = least(c->acknowledged, c->written);
		c->acknowledged = to;
		c->sent = most(c->sent, to);
		c->repeats = c->tries = 0;
		if (c->timing && to >= c->timed_position) {
			measure(c, now - c->timed_at);
			c->timing = 0;
		}
		if (c->again < to)
			c->again = to;
		if (to < c->recover) {
			/* Part of what was lost is there: the next gap is missing, too. */
			if (gap > to && c->again_end < gap) {
				c->again = most(to, c->again_end);
				c->again_end = gap;
			}
		} else if (c->window < c->threshold) {
			c->window += came;
		} else {
			c->window += most(segment(c) * (uint64_t)came / most(c->window, 1), 1);
		}
		c->window = least(c->window, 64u << 20);
		if (least(to, c->written) > before)
			note(c, ACKNOWLEDGED);
		if (c->end_sent && to > c->written)
			c->end_acknowledged = 1;
		c->deadline = c->acknowledged < c->highest ? now + c->rto : FREENA_NEVER;
	} else if (gap > to && to < c->highest && ++c->repeats == 3 && to >= c->recover) {
		c->threshold = c->window = most(c->window / 2, 2 * (uint64_t)segment(c));
		c->recover = c->highest;
		c->again = to;
		c->again_end = least(gap, c->highest);
		c->timing = 0;
	}
}

/* Notes that bytes have arrived; 0 where there is no room to note it. */
static int arrive(struct connection *c, uint64_t start, uint64_t end)
{
	uint32_t i = 0, j;
	start = most(start, c->received);
	while (i < c->range_count && c->ranges[i].end < start)
		i++;
	for (j = i; j < c->range_count && c->ranges[j].start <= end; j++) {
		start = least(start, c->ranges[j].start);
		end = most(end, c->ranges[j].end);
	}
	if (i == j && c->range_count == RANGES)
		return start == c->received;
	memmove(&c->ranges[i + 1], &c->ranges[j], (c->range_count - j) * sizeof *c->ranges);
	c->range_count = c->range_count - (j - i) + 1;
	c->ranges[i].start = start;
	c->ranges[i].end = end;
	return 1;
}

static uint32_t data(struct engine *e, uint32_t n, const FreenaHost *host, uint64_t start, const uint8_t *bytes,
		     uint32_t length, int end)
{
	struct connection *c = &e->connections[n];
	uint64_t behind = start + length;
	c->ack_now = 1;
	if (behind > c->read + c->buffer || (c->peer_end && behind > c->end_position))
		return FREENA_DROP_UNACCEPTABLE;
	if (length && behind > c->received) {
		if (c->closed) {
			/* Nobody will read it. */
			reset(e, n, FREENA_FAILURE_RESET);
			return FREENA_TAKEN;
		}
		if (start > c->received || c->range_count) {
			if (!arrive(c, start, behind))
				return FREENA_DROP_BACKLOG;
		}
		if (!host->store(host->context, n, start, bytes, length))
			return FREENA_DROP_UNACCEPTABLE;
		if (start <= c->received) {
			c->received = behind;
			while (c->range_count && c->ranges[0].start <= c->received) {
				c->received = most(c->received, c->ranges[0].end);
				memmove(c->ranges, c->ranges + 1, --c->range_count * sizeof *c->ranges);
			}
			note(c, RECEIVED);
		}
	}
	if (end && !c->peer_end) {
		c->peer_end = 1;
		c->end_position = behind;
	}
	if (c->peer_end && !c->peer_ended && c->received >= c->end_position) {
		c->peer_ended = 1;
		note(c, PEER_CLOSED);
	}
	return FREENA_TAKEN;
}

static uint32_t handle_packet(void *engine, uint64_t now, const FreenaPacket *packet, const FreenaHost *host)
{
	struct engine *e = engine;
	const uint8_t *p = packet->data;
	uint32_t n, to, from, flags, listener, length, result;
	struct connection *c;
	FreenaFlow flow;
	uint64_t ack;
	if (packet->length < HEADER)
		return FREENA_DROP_MALFORMED;
	memset(&flow, 0, sizeof flow);
	memcpy(flow.local, packet->destination, 16);
	memcpy(flow.peer, packet->source, 16);
	flow.peer_port = get16(p);
	flow.local_port = get16(p + 2);
	to = get32(p + 4);
	from = get32(p + 8);
	flags = p[28];
	length = packet->length - HEADER;
	if (!from || p[29] || ((flags & HELLO) && length))
		return FREENA_DROP_MALFORMED;
	n = find(e, &flow);
	if (n != NONE && e->connections[n].over && (flags & HELLO) && !(flags & ACK) && from != e->connections[n].peer_tag)
		n = NONE; /* A new one in place of one that is over. */
	if (n == NONE) {
		FreenaPath path;
		FreenaOptions options;
		uint64_t buffer;
		if (flags & RESET)
			return FREENA_DROP_NO_SOCKET;
		listener = host->listener(host->context, &flow);
		if (listener == NONE) {
			reply(e, &flow, flags & HELLO ? 1 : to, from, RESET);
			return FREENA_DROP_NO_SOCKET;
		}
		if (!host->path(host->context, &flow, &path))
			return FREENA_DROP_NO_PATH;
		if ((flags & (HELLO | ACK)) == HELLO) {
			reply(e, &flow, tag(e, &flow, from), from, HELLO | ACK);
			return FREENA_TAKEN;
		}
		if (to != tag(e, &flow, from)) {
			reply(e, &flow, to, from, RESET);
			return FREENA_DROP_NO_SOCKET;
		}
		/* The third packet, or what follows it. One of an old connection cannot begin a new one: its end was heard. */
		if ((flags & HELLO) || get32(p + 16) != 0 || get32(p + 12) > 1u << 24)
			return FREENA_DROP_UNACCEPTABLE;
		n = host->accept(host->context, listener, &flow, &buffer, &options);
		if (n == NONE)
			return FREENA_DROP_BACKLOG;
		c = begin(e, n, &flow, buffer);
		c->own_tag = to;
		c->peer_tag = from;
		c->room = path.room;
		c->confirmed = 1;
		options_of(c, &options);
		opened(c);
		c->ack_now = 1;
	}
	c = &e->connections[n];
	if (to != c->own_tag || (c->peer_tag && from != c->peer_tag)) {
		/* A reset in answer to our first packet knows one tag only. */
		if (!(to == c->own_tag && (flags & RESET)))
			return FREENA_DROP_UNACCEPTABLE;
	}
	if (flags & RESET) {
		fail(e, n, c->open ? FREENA_FAILURE_RESET : FREENA_FAILURE_REFUSED);
		return FREENA_TAKEN;
	}
	if (c->over)
		return FREENA_DROP_NO_SOCKET;
	if (!c->open) {
		if ((flags & (HELLO | ACK)) != (HELLO | ACK))
			return FREENA_DROP_UNACCEPTABLE;
		c->peer_tag = from;
		opened(c);
		c->edge = get32(p + 24);
		c->ack_now = 1;
		c->deadline = now + c->rto;
		note(c, CONNECTED);
		return FREENA_TAKEN;
	}
	if (flags & HELLO) {
		c->ack_now = 1;
		return FREENA_TAKEN;
	}
	if (!c->confirmed) {
		c->confirmed = 1;
		c->tries = 0;
		c->deadline = FREENA_NEVER;
	}
	ack = position(c->acknowledged, get32(p + 16));
	if (ack > c->highest)
		return FREENA_DROP_UNACCEPTABLE;
	if (c->acknowledged == c->highest)
		c->tries = 0; /* The peer lives: it may leave its window shut as long as it likes. */
	c->edge = most(c->edge, ack + get32(p + 24));
	acknowledged(e, n, now, ack, position(ack, get32(p + 20)));
	result = FREENA_TAKEN;
	if (length || (flags & END))
		result = data(e, n, host, position(c->received, get32(p + 12)), p + HEADER, length, flags & END);
	if (flags & ASK)
		c->ack_now = 1;
	settle(e, n, now);
	return result;
}

static void handle_timeout(void *engine, uint64_t now)
{
	struct engine *e = engine;
	for (uint32_t i = 0; i < e->used_count; i++) {
		uint32_t n = e->used[i];
		struct connection *c = &e->connections[n];
		if (c->deadline > now)
			continue;
		c->deadline = FREENA_NEVER;
		if (c->over)
			continue;
		if (c->closed && c->end_acknowledged) {
			release(e, n);
			continue;
		}
		if (++c->tries > TRIES) {
			reset(e, n, FREENA_FAILURE_TIMED_OUT);
			continue;
		}
		c->rto = least(c->rto * 2, 2000 * MS);
		c->deadline = now + c->rto;
		if (!c->open) {
			c->say_hello = 1;
		} else if (c->acknowledged < c->highest) {
			c->threshold = most((c->highest - c->acknowledged) / 2, 2 * (uint64_t)segment(c));
			c->window = segment(c);
			c->sent = c->acknowledged;
			c->again = c->again_end = c->acknowledged;
			c->recover = c->highest;
			c->timing = 0;
		} else {
			/* Not confirmed, or the window is shut: ask. */
			c->ask_now = 1;
		}
	}
}

/* The peer's host has nothing for us. What is quoted must be our ports; a connection that is open does not end by it. */
static void handle_icmp(void *engine, uint64_t now, const FreenaFlow *flow, const uint8_t *quoted, uint32_t error)
{
	struct engine *e = engine;
	uint32_t n = find(e, flow);
	(void)now;
	if (n == NONE || e->connections[n].open || get16(quoted) != flow->local_port || get16(quoted + 2) != flow->peer_port)
		return;
	if (error == FREENA_ICMP_PROTOCOL || error == FREENA_ICMP_PORT)
		fail(e, n, FREENA_FAILURE_REFUSED);
}

static void set_path(void *engine, uint64_t now, uint32_t n, const FreenaPath *path)
{
	(void)now;
	((struct engine *)engine)->connections[n].room = path->room;
}

static void set_options(void *engine, uint64_t now, uint32_t n, const FreenaOptions *options)
{
	(void)now;
	options_of(&((struct engine *)engine)->connections[n], options);
}

static void written(void *engine, uint64_t now, uint32_t n, uint64_t to)
{
	(void)now;
	((struct engine *)engine)->connections[n].written = to;
}

static void has_read(void *engine, uint64_t now, uint32_t n, uint64_t to)
{
	struct connection *c = &((struct engine *)engine)->connections[n];
	(void)now;
	c->read = to;
	if (to + c->buffer - c->told_edge >= c->buffer / 4)
		c->ack_now = 1;
}

static void shut_down(void *engine, uint64_t now, uint32_t n)
{
	(void)now;
	((struct engine *)engine)->connections[n].shut = 1;
}

static void close_it(void *engine, uint64_t now, uint32_t n, uint32_t unread)
{
	struct engine *e = engine;
	struct connection *c = &e->connections[n];
	c->closed = 1;
	c->shut = 1;
	if (c->over || (c->told & CLOSED)) {
		if (c->over) {
			release(e, n);
		} else {
			c->deadline = now + 1000 * MS;
		}
	} else if (unread || !c->open || c->range_count) {
		reset(e, n, FREENA_FAILURE_RESET);
	} else {
		settle(e, n, now);
	}
}

static void abort_it(void *engine, uint64_t now, uint32_t n)
{
	struct engine *e = engine;
	struct connection *c = &e->connections[n];
	(void)now;
	c->closed = 1;
	if (c->over)
		release(e, n);
	else
		reset(e, n, FREENA_FAILURE_RESET);
}

static uint32_t poll_events(void *engine, FreenaEvent *events, uint32_t room)
{
	struct engine *e = engine;
	uint32_t count = 0;
	for (uint32_t i = 0; i < e->used_count && count < room;) {
		uint32_t n = e->used[i];
		struct connection *c = &e->connections[n];
		uint32_t bit = c->news & -c->news;
		if (!bit) {
			i++;
			continue;
		}
		c->news &= ~bit;
		events[count] = (FreenaEvent){ 0, n, 0, c->failure, 0 };
		switch (bit) {
		case CONNECTED: events[count++].kind = FREENA_EVENT_CONNECTED; break;
		case ACKNOWLEDGED:
			events[count].position = least(c->acknowledged, c->written);
			events[count++].kind = FREENA_EVENT_ACKNOWLEDGED;
			break;
		case RECEIVED:
			events[count].position = c->received;
			events[count++].kind = FREENA_EVENT_RECEIVED;
			break;
		case PEER_CLOSED: events[count++].kind = FREENA_EVENT_PEER_CLOSED; break;
		case CLOSED: events[count++].kind = FREENA_EVENT_CLOSED; break;
		case FAILED: events[count++].kind = FREENA_EVENT_FAILED; break;
		case RELEASED:
			events[count++].kind = FREENA_EVENT_RELEASED;
			unlink_flow(e, n);
			e->used[c->place] = e->used[--e->used_count];
			e->connections[e->used[c->place]].place = c->place;
			memset(c, 0, sizeof *c);
			break;
		}
	}
	return count;
}

static void header(FreenaTransmit *packet, const FreenaFlow *flow, uint32_t own_tag, uint32_t peer_tag, uint8_t flags)
{
	memset(packet, 0, sizeof *packet);
	packet->flow = *flow;
	packet->connection = NONE;
	packet->header_length = HEADER;
	put16(packet->header, flow->local_port);
	put16(packet->header + 2, flow->peer_port);
	put32(packet->header + 4, peer_tag);
	put32(packet->header + 8, own_tag);
	packet->header[28] = flags;
}

static void fill(FreenaTransmit *packet, uint32_t n, struct connection *c, uint64_t from, uint32_t length, uint8_t flags)
{
	uint64_t ack = c->received + (c->peer_ended ? 1 : 0);
	uint64_t gap = c->range_count ? c->ranges[0].start : ack;
	header(packet, &c->flow, c->own_tag, c->peer_tag, flags);
	packet->connection = n;
	packet->ttl = c->ttl;
	packet->tos = c->tos;
	packet->position = from;
	packet->length = length;
	put32(packet->header + 12, (uint32_t)from);
	put32(packet->header + 16, (uint32_t)ack);
	put32(packet->header + 20, (uint32_t)gap);
	put32(packet->header + 24, (uint32_t)least(c->read + c->buffer - c->received, UINT32_MAX));
	c->told_edge = c->read + c->buffer;
	c->ack_now = c->ask_now = 0;
}

/* One packet of a connection, if there is one to send. */
static int next_packet(struct engine *e, uint32_t n, uint64_t now, FreenaTransmit *packet)
{
	struct connection *c = &e->connections[n];
	uint64_t from, until, length;
	uint8_t flags = ACK;
	if (c->over)
		return 0;
	if (c->say_hello) {
		c->say_hello = 0;
		fill(packet, n, c, 0, 0, HELLO);
		return 1;
	}
	if (!c->open)
		return 0;
	if (c->again < c->again_end) {
		from = c->again;
		until = least(c->again_end, c->written);
		length = from < until ? least(until - from, segment(c)) : 0;
		c->again += most(length, 1);
		if (c->end_sent && from + length == c->written)
			flags |= END;
		if (length || (flags & END)) {
			c->retransmitted++;
			fill(packet, n, c, from, length, flags);
			return 1;
		}
	}
	from = c->sent;
	until = least(c->written, least(c->acknowledged + c->window, c->edge));
	length = from < until ? least(until - from, segment(c)) : 0;
	/* A small packet waits until nothing is on its way (Nagle), unless it is the last one. */
	if (length && length < segment(c) && !c->no_delay && c->acknowledged < c->sent && !c->shut && from >= c->highest)
		length = 0;
	if (c->shut && from + length == c->written && c->sent < end_of(c))
		flags |= END;
	if (length || (flags & END)) {
		c->sent = from + length;
		if (flags & END) {
			c->sent++;
			c->end_sent = 1;
		}
		if (from < c->highest) {
			c->retransmitted++;
		} else if (!c->timing) {
			c->timing = 1;
			c->timed_at = now;
			c->timed_position = c->sent;
		}
		c->highest = most(c->highest, c->sent);
		if (c->deadline == FREENA_NEVER || !c->confirmed)
			c->deadline = now + c->rto;
		fill(packet, n, c, from, (uint32_t)length, flags);
		return 1;
	}
	if (c->edge <= c->acknowledged && c->sent < c->written && c->deadline == FREENA_NEVER)
		c->deadline = now + c->rto; /* The window is shut, and the word that opens it may get lost. */
	if (c->ack_now || c->ask_now) {
		fill(packet, n, c, c->sent, 0, c->ask_now ? ACK | ASK : ACK);
		return 1;
	}
	return 0;
}

static uint32_t poll_transmit(void *engine, uint64_t now, FreenaTransmit *packets, uint32_t room, const FreenaHost *host)
{
	struct engine *e = engine;
	uint32_t count = 0;
	(void)host;
	while (e->reply_count && count < room) {
		const struct reply *r = &e->replies[--e->reply_count];
		header(&packets[count], &r->flow, r->own_tag, r->peer_tag, r->flags);
		if (r->flags & HELLO)
			put32(packets[count].header + 24, 64 << 10);
		count++;
	}
	for (uint32_t i = 0; i < e->used_count && count < room; i++) {
		uint32_t n = e->used[(e->turn + i) % e->used_count];
		while (count < room && next_packet(e, n, now, &packets[count]))
			count++;
	}
	e->turn = e->used_count ? (e->turn + 1) % e->used_count : 0;
	return count;
}

static uint64_t poll_timeout(void *engine)
{
	struct engine *e = engine;
	uint64_t soonest = FREENA_NEVER;
	for (uint32_t i = 0; i < e->used_count; i++)
		soonest = least(soonest, e->connections[e->used[i]].deadline);
	return soonest;
}

static void info(void *engine, uint32_t n, FreenaInfo *to)
{
	const struct connection *c = &((struct engine *)engine)->connections[n];
	to->round_trip = c->srtt;
	to->variation = c->variation;
	to->timeout = c->rto;
	to->congestion_window = c->window;
	to->send_window = c->edge > c->acknowledged ? c->edge - c->acknowledged : 0;
	to->in_flight = c->sent - c->acknowledged;
	to->retransmitted = c->retransmitted;
	to->segment = segment(c);
}

const FreenaProtocol freena_protocol = {
	.abi = FREENA_PROTOCOL_ABI,
	.size = sizeof(FreenaProtocol),
	.name = "steady",
	.ip_protocol = 253,
	.checksum_offset = 30,
	.create = create,
	.destroy = destroy,
	.connect = connect_to,
	.handle_packet = handle_packet,
	.handle_timeout = handle_timeout,
	.handle_icmp = handle_icmp,
	.set_path = set_path,
	.set_options = set_options,
	.written = written,
	.read = has_read,
	.shutdown = shut_down,
	.close = close_it,
	.abort = abort_it,
	.poll_events = poll_events,
	.poll_transmit = poll_transmit,
	.poll_timeout = poll_timeout,
	.info = info,
};
