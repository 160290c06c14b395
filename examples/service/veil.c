// A service in C, from the header alone: it veils what the program sends by adding a byte to each of its bytes, which hides
// nothing from anybody, and puts a check before it. It shows what a service is; docs/services.md tells how it is used.
//
//     cc -std=c11 -O2 -shared -fPIC -I services/api/include -o libveil.so examples/service/veil.c

#include "freena_service.h"

#include <stdlib.h>
#include <string.h>

#define HEAD 4

struct veil {
    uint8_t add;
    uint64_t sent, received;
};

// FNV-1a over what of the flow the message is, and over the message.
static uint32_t check(uint32_t kind, const uint8_t *bytes, size_t length) {
    uint32_t hash = 2166136261u ^ kind;
    for (size_t i = 0; i < length; i++) {
        hash = (hash ^ bytes[i]) * 16777619u;
    }
    return hash;
}

static uint32_t refuse(FreenaServiceText *why, const char *words) {
    size_t length = strlen(words);
    if (length > why->capacity) {
        length = why->capacity;
    }
    memcpy(why->text, words, length);
    why->length = length;
    return FREENA_SERVICE_PARAMETER;
}

static uint32_t veil_open(FreenaServiceSetup *setup, void **instance, FreenaServiceText *why) {
    struct veil *veil = calloc(1, sizeof *veil);
    if (!veil) {
        return refuse(why, "no memory");
    }
    for (uint32_t i = 0; i < setup->value_count; i++) {
        if (strcmp(setup->values[i].name, "add") == 0) {
            veil->add = (uint8_t)atoi(setup->values[i].value);
        }
    }
    setup->promise.outbound = setup->promise.inbound = FREENA_SERVICE_IN_PLACE;
    setup->promise.head = HEAD;
    *instance = veil;
    return FREENA_SERVICE_OK;
}

static void veil_close(void *instance) {
    free(instance);
}

static uint32_t veil_outbound(void *instance, FreenaServiceMessage *message) {
    struct veil *veil = instance;
    uint8_t *bytes = message->memory + message->start;
    uint32_t sum = check(message->kind, bytes, message->length);
    for (size_t i = 0; i < message->length; i++) {
        bytes[i] += veil->add;
    }
    memcpy(bytes - HEAD, &sum, HEAD);
    message->start -= HEAD;
    message->length += HEAD;
    veil->sent++;
    return FREENA_SERVICE_OK;
}

static uint32_t veil_inbound(void *instance, FreenaServiceMessage *message) {
    struct veil *veil = instance;
    uint32_t sum;
    if (message->length < HEAD) {
        return FREENA_SERVICE_MALFORMED;
    }
    memcpy(&sum, message->memory + message->start, HEAD);
    message->start += HEAD;
    message->length -= HEAD;
    uint8_t *bytes = message->memory + message->start;
    for (size_t i = 0; i < message->length; i++) {
        bytes[i] -= veil->add;
    }
    veil->received++;
    return check(message->kind, bytes, message->length) == sum ? FREENA_SERVICE_OK : FREENA_SERVICE_MALFORMED;
}

static size_t veil_statistics(void *instance, FreenaServiceStatistic *out, size_t capacity) {
    struct veil *veil = instance;
    if (capacity < 2) {
        return 0;
    }
    out[0] = (FreenaServiceStatistic){"messages sent", veil->sent};
    out[1] = (FreenaServiceStatistic){"messages received", veil->received};
    return 2;
}

static const FreenaServiceParameter parameters[] = {{
    .name = "add",
    .meaning = "What is added to each byte.",
    .unit = "",
    .preset = "13",
    .kind = FREENA_SERVICE_NUMBER,
    .agreed = 1,
    .minimum = 0,
    .maximum = 255,
}};

const FreenaService freena_service = {
    .abi = FREENA_SERVICE_ABI,
    .size = sizeof(FreenaService),
    .name = "veil",
    .about = "Adds a number to each byte, as an example of a service.",
    .version = 1,
    .kinds = FREENA_SERVICE_STREAM | FREENA_SERVICE_DATAGRAM,
    .parameters = parameters,
    .parameter_count = 1,
    .open = veil_open,
    .close = veil_close,
    .outbound = veil_outbound,
    .inbound = veil_inbound,
    .statistics = veil_statistics,
};
