/*
 * An SCTP program over libusrsctp, which speaks on a raw IP socket: the other end in tests of interoperation.
 *
 *     cc -O2 -o usrsctp_peer usrsctp_peer.c -lusrsctp -lpthread
 *
 *     usrsctp_peer echo PORT                     sends back what one peer sends, until that shuts down; prints how much
 *     usrsctp_peer send ADDRESS PORT BYTES SIZE  sends messages of SIZE bytes, BYTES in all, expects them back, shuts down
 *     usrsctp_peer serve PORT                    sends back each message as it came: stream, payload protocol, order
 *     usrsctp_peer ask ADDRESS PORT              sends messages of many sorts and expects them back, shuts down
 *     usrsctp_peer idle ADDRESS PORT SECONDS     is connected, with a heartbeat each second; prints how many were answered
 *     usrsctp_peer abort ADDRESS PORT            connects, sends 4 bytes, aborts
 *
 * Every byte sent is a function of its position.
 */
#include "sctp_messages.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <usrsctp.h>

static void fail(const char *what)
{
	fprintf(stderr, "%s: %s\n", what, strerror(errno));
	_exit(1);
}

static uint8_t byte_at(uint64_t position) { return (uint8_t)((position * 0x9e3779b97f4a7c15ull) >> 56); }

static struct socket *make(void)
{
	struct socket *s = usrsctp_socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP, NULL, NULL, 0, NULL);
	int size = 1 << 20;
	if (!s)
		fail("socket");
	usrsctp_setsockopt(s, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
	usrsctp_setsockopt(s, SOL_SOCKET, SO_RCVBUF, &size, sizeof size);
	return s;
}

static struct sockaddr_in address(const char *ip, const char *port)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port)) };
	if (inet_pton(AF_INET, ip, &to.sin_addr) != 1)
		fail("address");
	return to;
}

static struct socket *connected(const char *ip, const char *port)
{
	struct sockaddr_in to = address(ip, port);
	struct socket *s = make();
	if (usrsctp_connect(s, (struct sockaddr *)&to, sizeof to))
		fail("connect");
	return s;
}

static void send_all(struct socket *s, const uint8_t *bytes, size_t length)
{
	struct sctp_sndinfo info = { .snd_sid = 0 };
	if (usrsctp_sendv(s, bytes, length, NULL, 0, &info, sizeof info, SCTP_SENDV_SNDINFO, 0) != (ssize_t)length)
		fail("send");
}

static ssize_t receive(struct socket *s, uint8_t *to, size_t room)
{
	struct sockaddr_in from;
	struct sctp_rcvinfo info;
	socklen_t from_len = sizeof from, info_len = sizeof info;
	unsigned int type = 0;
	int flags = 0;
	return usrsctp_recvv(s, to, room, (struct sockaddr *)&from, &from_len, &info, &info_len, &type, &flags);
}

static struct { struct socket *s; uint64_t bytes; size_t size; } job;

static void *sending(void *unused)
{
	uint8_t *message = malloc(job.size);
	(void)unused;
	for (uint64_t sent = 0; sent < job.bytes;) {
		size_t length = job.bytes - sent < job.size ? (size_t)(job.bytes - sent) : job.size;
		for (size_t at = 0; at < length; at++)
			message[at] = byte_at(sent + at);
		send_all(job.s, message, length);
		sent += length;
	}
	free(message);
	return NULL;
}

static int send_and_expect(struct socket *s, uint64_t bytes, size_t size)
{
	static uint8_t buffer[65536];
	pthread_t sender;
	uint64_t received = 0;
	job.s = s;
	job.bytes = bytes;
	job.size = size;
	pthread_create(&sender, NULL, sending, NULL);
	while (received < bytes) {
		ssize_t got = receive(s, buffer, sizeof buffer);
		if (got <= 0)
			fail("receive");
		for (ssize_t at = 0; at < got; at++)
			if (buffer[at] != byte_at(received + (uint64_t)at)) {
				fprintf(stderr, "another byte at %llu\n", (unsigned long long)(received + (uint64_t)at));
				return 1;
			}
		received += (uint64_t)got;
	}
	pthread_join(sender, NULL);
	usrsctp_shutdown(s, SHUT_WR);
	if (receive(s, buffer, sizeof buffer) != 0)
		fail("the end");
	printf("%llu\n", (unsigned long long)received);
	return 0;
}

static int echo(const char *port)
{
	static uint8_t buffer[65536];
	struct sockaddr_in own = address("0.0.0.0", port);
	struct socket *listener = make(), *s;
	uint64_t echoed = 0;
	ssize_t got;
	if (usrsctp_bind(listener, (struct sockaddr *)&own, sizeof own) || usrsctp_listen(listener, 1))
		fail("listen");
	puts("listening");
	fflush(stdout);
	if (!(s = usrsctp_accept(listener, NULL, NULL)))
		fail("accept");
	while ((got = receive(s, buffer, sizeof buffer)) > 0) {
		send_all(s, buffer, (size_t)got);
		echoed += (uint64_t)got;
	}
	printf("%llu %s\n", (unsigned long long)echoed, got < 0 ? strerror(errno) : "end");
	fflush(stdout);
	usrsctp_close(s);
	usrsctp_close(listener);
	return 0;
}

static void send_message(struct socket *s, const struct message *message)
{
	struct sctp_sndinfo info = { .snd_sid = message->stream, .snd_ppid = message->protocol };
	info.snd_flags = message->unordered ? SCTP_UNORDERED : 0;
	if (usrsctp_sendv(s, message->bytes, message->length, NULL, 0, &info, sizeof info, SCTP_SENDV_SNDINFO, 0) !=
	    (ssize_t)message->length)
		fail("send");
}

/* One message; 0 at the end. */
static int receive_message(struct socket *s, struct message *message)
{
	struct sctp_rcvinfo info;
	int flags = 0;
	message->length = 0;
	do {
		struct sockaddr_in from;
		socklen_t from_len = sizeof from, info_len = sizeof info;
		unsigned int type = 0;
		flags = 0;
		ssize_t got = usrsctp_recvv(s, message->bytes + message->length, LONGEST - message->length,
					    (struct sockaddr *)&from, &from_len, &info, &info_len, &type, &flags);
		if (got < 0)
			fail("receive");
		if (got == 0)
			return 0;
		message->length += (size_t)got;
	} while (!(flags & MSG_EOR));
	message->stream = info.rcv_sid;
	message->protocol = info.rcv_ppid;
	message->unordered = !!(info.rcv_flags & SCTP_UNORDERED);
	return 1;
}

static void want_info(struct socket *s)
{
	int on = 1;
	if (usrsctp_setsockopt(s, IPPROTO_SCTP, SCTP_RECVRCVINFO, &on, sizeof on))
		fail("SCTP_RECVRCVINFO");
}

static int serve(const char *port)
{
	static struct message message;
	struct sockaddr_in own = address("0.0.0.0", port);
	struct socket *listener = make(), *s;
	unsigned echoed = 0;
	if (usrsctp_bind(listener, (struct sockaddr *)&own, sizeof own) || usrsctp_listen(listener, 1))
		fail("listen");
	puts("listening");
	fflush(stdout);
	if (!(s = usrsctp_accept(listener, NULL, NULL)))
		fail("accept");
	want_info(s);
	for (; receive_message(s, &message); echoed++)
		send_message(s, &message);
	printf("%u\n", echoed);
	fflush(stdout);
	usrsctp_close(s);
	usrsctp_close(listener);
	return 0;
}

static int ask(struct socket *s)
{
	static struct message message;
	want_info(s);
	for (unsigned number = 0; number < MESSAGES; number++) {
		compose(&message, number);
		send_message(s, &message);
		if (!receive_message(s, &message))
			fail("the end");
		expect(&message, number);
	}
	usrsctp_shutdown(s, SHUT_WR);
	if (receive_message(s, &message))
		fail("no end");
	printf("%d\n", MESSAGES);
	return 0;
}

static int idle(struct socket *s, struct sockaddr_in to, int seconds)
{
	struct sctp_paddrparams parameters;
	struct sctpstat before, after;
	memset(&parameters, 0, sizeof parameters);
	memcpy(&parameters.spp_address, &to, sizeof to);
	parameters.spp_flags = SPP_HB_ENABLE;
	parameters.spp_hbinterval = 1000;
	if (usrsctp_setsockopt(s, IPPROTO_SCTP, SCTP_PEER_ADDR_PARAMS, &parameters, sizeof parameters))
		fail("SCTP_PEER_ADDR_PARAMS");
	usrsctp_get_stat(&before);
	sleep((unsigned)seconds);
	usrsctp_get_stat(&after);
	printf("%u\n", after.sctps_recvheartbeatack - before.sctps_recvheartbeatack);
	return 0;
}

int main(int argc, char **argv)
{
	int result = 2;
	if (argc < 3)
		return 2;
	usrsctp_init(0, NULL, NULL);
	/* Its other addresses are nobody's business here. */
	usrsctp_sysctl_set_sctp_blackhole(0);
	if (!strcmp(argv[1], "echo")) {
		result = echo(argv[2]);
	} else if (!strcmp(argv[1], "serve")) {
		result = serve(argv[2]);
	} else if (!strcmp(argv[1], "ask") && argc == 4) {
		struct socket *s = connected(argv[2], argv[3]);
		result = ask(s);
		usrsctp_close(s);
	} else if (!strcmp(argv[1], "send") && argc == 6) {
		struct socket *s = connected(argv[2], argv[3]);
		result = send_and_expect(s, strtoull(argv[4], NULL, 10), strtoull(argv[5], NULL, 10));
		usrsctp_close(s);
	} else if (!strcmp(argv[1], "idle") && argc == 5) {
		struct socket *s = connected(argv[2], argv[3]);
		result = idle(s, address(argv[2], argv[3]), atoi(argv[4]));
		usrsctp_close(s);
	} else if (!strcmp(argv[1], "abort") && argc == 4) {
		struct socket *s = connected(argv[2], argv[3]);
		struct linger now = { 1, 0 };
		send_all(s, (const uint8_t *)"gone", 4);
		usleep(200000);
		usrsctp_setsockopt(s, SOL_SOCKET, SO_LINGER, &now, sizeof now);
		usrsctp_close(s);
		result = 0;
	}
	for (int tries = 0; usrsctp_finish() && tries < 50; tries++)
		usleep(100000);
	return result;
}
