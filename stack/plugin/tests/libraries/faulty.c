/* A library that breaks the contract in the way that FAULT names. */
#include "freena_protocol.h"
#include <stddef.h>
#include <string.h>

static int nothing;
static volatile int *nowhere;
static volatile int zero;

static void *create(const FreenaConfig *config) { (void)config; return &nothing; }
static void destroy(void *engine) { (void)engine; }

static uint32_t connect_to(void *engine, uint64_t now, uint32_t n, const FreenaFlow *flow, const FreenaPath *path,
			   uint64_t buffer, const FreenaOptions *options)
{
	(void)engine, (void)now, (void)n, (void)flow, (void)path, (void)buffer, (void)options;
	return FREENA_CONNECTING;
}

static int deep(volatile int n)
{
	volatile char much[4096];
	much[0] = n;
	return n < 0 ? much[0] : deep(n + 1) + much[0];
}

static uint32_t handle_packet(void *engine, uint64_t now, const FreenaPacket *packet, const FreenaHost *host)
{
	(void)engine, (void)now;
	switch (FAULT) {
	case 1: *nowhere = 1; break;
	case 2: for (;;) zero++; break;
	case 3: return 7 / zero;
	case 4: memset((void *)(size_t)(8 + zero), 1, packet->length + 1000); break;
	case 5: return deep(0);
	case 6: host->store(host->context, 0, 1u << 30, packet->data, packet->length); break;
	case 7: host->store(host->context, 77, 0, packet->data, packet->length); break;
	case 8: return 99;
	}
	return FREENA_TAKEN;
}

static void told(void *engine, uint64_t now, uint32_t n) { (void)engine, (void)now, (void)n; }
static void position(void *engine, uint64_t now, uint32_t n, uint64_t to) { (void)engine, (void)now, (void)n, (void)to; }
static void close_it(void *engine, uint64_t now, uint32_t n, uint32_t u) { (void)engine, (void)now, (void)n, (void)u; }
static void timeout(void *engine, uint64_t now) { (void)engine, (void)now; }

static uint32_t poll_events(void *engine, FreenaEvent *events, uint32_t room)
{
	(void)engine;
	memset(events, 0, sizeof *events);
	switch (FAULT) {
	case 9: return room + 1;
	case 10: events->kind = FREENA_EVENT_RECEIVED; events->position = 100; return 1;
	case 11: events->kind = FREENA_EVENT_RELEASED; return 1;
	case 12: events->kind = FREENA_EVENT_CONNECTED; events->connection = 5; return 1;
	case 13: events->kind = FREENA_EVENT_ACKNOWLEDGED; events->position = 100; return 1;
	case 14: events->kind = 1234; return 1;
	}
	return 0;
}

static uint32_t poll_transmit(void *engine, uint64_t now, FreenaTransmit *packets, uint32_t room, const FreenaHost *host)
{
	(void)engine, (void)now, (void)host;
	memset(packets, 0, sizeof *packets);
	packets->header_length = 20;
	switch (FAULT) {
	case 15: return room + 1;
	case 16: packets->length = 1000; return 1;
	case 17: packets->header_length = 61; return 1;
	case 18: packets->connection = 9; return 1;
	case 19: packets->connection = FREENA_NONE; packets->length = 4; return 1;
	}
	return 0;
}

static uint64_t poll_timeout(void *engine)
{
	(void)engine;
	if (FAULT == 20)
		*nowhere = 1;
	return FREENA_NEVER;
}

#ifndef ABI
#define ABI FREENA_PROTOCOL_ABI
#endif
#ifndef SIZE
#define SIZE sizeof(FreenaProtocol)
#endif
#ifndef NAME
#define NAME "faulty"
#endif
#ifndef NUMBER
#define NUMBER 254
#endif
#ifndef SYMBOL
#define SYMBOL freena_protocol
#endif
#ifndef CLOSE
#define CLOSE close_it
#endif

const FreenaProtocol SYMBOL = {
	.abi = ABI, .size = SIZE, .name = NAME, .ip_protocol = NUMBER, .checksum_offset = FREENA_NO_CHECKSUM,
	.create = create, .destroy = destroy, .connect = connect_to, .handle_packet = handle_packet,
	.handle_timeout = timeout, .written = position, .read = position, .shutdown = told, .close = CLOSE, .abort = told,
	.poll_events = poll_events, .poll_transmit = poll_transmit, .poll_timeout = poll_timeout,
};

/* Used or not. */
void *freena_test_unused[] = { (void *)close_it, (void *)deep };
