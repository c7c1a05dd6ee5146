/*
 * A connection to a server on this machine, over which one request at a time goes: text out, text back.
 */
#ifndef PHALANX_RIVALS_CONNECTION_H
#define PHALANX_RIVALS_CONNECTION_H

#include "common.h"
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

struct connection {
    int socket;
    /* How to receive: without sleeping while a CPU is left for the server, as waking costs more than the request. */
    int receive_flags;
    size_t length;
    char answer[8192];
};

static inline void connect_to(struct connection *connection, const struct options *options)
{
    int port = options->port;
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    connection->socket = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection->socket < 0 || connect(connection->socket, (struct sockaddr *)&address, sizeof address))
        die("no connection to port %d: %s", port, strerror(errno));
    int on = 1;
    setsockopt(connection->socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    connection->receive_flags = options->busy < options->cpu_count ? MSG_DONTWAIT : 0;
}

static inline void say(struct connection *connection, const char *text, size_t length)
{
    while (length) {
        ssize_t sent = send(connection->socket, text, length, MSG_NOSIGNAL);
        if (sent < 0 && errno != EINTR)
            die("cannot send to the server: %s", strerror(errno));
        if (sent > 0) {
            text += sent;
            length -= (size_t)sent;
        }
    }
    connection->length = 0;
    connection->answer[0] = 0;
}

/* More of the answer, which is kept as one text. */
static inline void hear_more(struct connection *connection)
{
    size_t room = sizeof connection->answer - 1 - connection->length;
    if (!room)
        die("the server's answer is too long: %.200s", connection->answer);
    ssize_t heard = recv(connection->socket, connection->answer + connection->length, room, connection->receive_flags);
    if (heard < 0 && (errno == EINTR || errno == EAGAIN))
        return;
    if (heard <= 0)
        die("the server has hung up: %s", heard ? strerror(errno) : "no more to come");
    connection->length += (size_t)heard;
    connection->answer[connection->length] = 0;
}

#endif
