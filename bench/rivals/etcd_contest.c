/*
 * etcd's own lock and election services, which queue those who wait in the server, spoken as JSON over HTTP to the
 * gateway that each etcd has. A rank has one lease for all that it holds.
 */
#include "connection.h"
#include "contest.h"
#include "processes.h"

#define LEASE_S 60

static struct team *team;

struct rank {
    /* First, so that a rank is a member, too. */
    struct member member;
    struct connection connection;
    char lease[64];
    /* What names this possession when it is given back, as JSON. */
    char held[2048];
};

/* Hears an answer and returns its body. */
static const char *hear(struct connection *connection)
{
    char *end;
    do
        hear_more(connection);
    while (!(end = strstr(connection->answer, "\r\n\r\n")));
    const char *announced = strcasestr(connection->answer, "\r\ncontent-length:");
    if (strncmp(connection->answer, "HTTP/1.1 200", 12) || !announced)
        die("etcd: %s", connection->answer);
    size_t whole = (size_t)(end + 4 - connection->answer) + strtoul(announced + 17, NULL, 10);
    while (connection->length < whole)
        hear_more(connection);
    return end + 4;
}

static const char *post(struct connection *connection, const char *path, const char *body)
{
    char text[4096];
    int length = snprintf(text, sizeof text, "POST /v3/%s HTTP/1.1\r\nHost: localhost\r\nContent-Length: %zu\r\n\r\n%s",
        path, strlen(body), body);
    if (length >= (int)sizeof text)
        die("etcd: a request is too long: %s", body);
    say(connection, text, (size_t)length);
    return hear(connection);
}

/* Copies what stands between two texts of an answer, the first of them included. */
static void keep(char *kept, size_t bytes, const char *answer, const char *from, const char *until)
{
    const char *begin = strstr(answer, from);
    const char *end = begin ? strstr(begin + strlen(from), until) : NULL;
    if (!end || (size_t)(end - begin) >= bytes)
        die("etcd: no %s in %s", from, answer);
    memcpy(kept, begin, (size_t)(end - begin));
    kept[end - begin] = 0;
}

static void grant_lease(struct rank *rank)
{
    char body[96], kept[64];
    snprintf(body, sizeof body, "{\"TTL\":%d}", LEASE_S);
    keep(kept, sizeof kept, post(&rank->connection, "lease/grant", body), "\"ID\":\"", "\"");
    snprintf(rank->lease, sizeof rank->lease, "%s", kept + strlen("\"ID\":\""));
}

/* Gives back what is held, so that the next round meets an empty queue. */
static void revoke_lease(struct rank *rank)
{
    char body[96];
    snprintf(body, sizeof body, "{\"ID\":\"%s\"}", rank->lease);
    post(&rank->connection, "lease/revoke", body);
}

/* Eight digits are Base64 of some six bytes, which is a name like any other. */
static void lock(void *context, uint64_t object, bool shared)
{
    (void)shared;
    struct rank *rank = context;
    char body[128];
    snprintf(body, sizeof body, "{\"name\":\"%08llu\",\"lease\":\"%s\"}", (unsigned long long)object, rank->lease);
    keep(rank->held, sizeof rank->held, post(&rank->connection, "lock/lock", body), "\"key\":\"", "\"");
}

static void unlock(void *context, uint64_t object, bool shared)
{
    (void)object;
    (void)shared;
    struct rank *rank = context;
    char body[2304];
    snprintf(body, sizeof body, "{%s\"}", rank->held);
    post(&rank->connection, "lock/unlock", body);
}

static void campaign(void *context, uint64_t object, bool shared)
{
    (void)shared;
    struct rank *rank = context;
    char body[160];
    snprintf(body, sizeof body, "{\"name\":\"%08llu\",\"lease\":\"%s\",\"value\":\"0000\"}",
        (unsigned long long)object, rank->lease);
    keep(rank->held, sizeof rank->held, post(&rank->connection, "election/campaign", body), "\"leader\":{", "}");
}

static void resign(void *context, uint64_t object, bool shared)
{
    (void)object;
    (void)shared;
    struct rank *rank = context;
    char body[2304];
    snprintf(body, sizeof body, "{%s}}", rank->held);
    post(&rank->connection, "election/resign", body);
}

static void run_rank(const struct options *options, int number)
{
    struct rank rank = {.member = {team, number}};
    connect_to(&rank.connection, options);
    grant_lease(&rank);
    bool is_election = is_object(options, "election");
    struct contestant contestant = {
        .acquire = is_election ? campaign : lock,
        .release = is_election ? resign : unlock,
        .meet = meet_team,
        .from_rank_0 = team_word_of_rank_0,
    };
    contend(options, number, contestant, &rank);
    revoke_lease(&rank);
    close(rank.connection.socket);
}

int main(int count, char **arguments)
{
    struct options options = parse_contest(count, arguments);
    team = share_team(options.ranks);
    return run_ranks_as_processes(&options, run_rank) ? 0 : 1;
}
