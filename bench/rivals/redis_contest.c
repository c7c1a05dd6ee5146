/*
 * Redis as its documentation has it: a lock is `SET key token NX PX ms`, given back by a script that deletes the key if
 * the token is still the owner's; a counter is `INCR key`. Spoken over a raw socket, so that no client library's time
 * counts. Whoever finds a lock taken asks again at once: there is nothing to wait on, and any pause only adds to the
 * handover.
 */
#include "connection.h"
#include "contest.h"
#include "processes.h"

#define LEASE_MS "30000"

static const char RELEASE[] =
    "if redis.call('get',KEYS[1])==ARGV[1] then return redis.call('del',KEYS[1]) else return 0 end";

static struct team *team;

struct rank {
    /* First, so that a rank is a member, too. */
    struct member member;
    struct connection connection;
    char script[48];
    uint64_t turn;
    /* Unique to this possession. */
    char token[32];
};

/* Hears a line, or a line and the text that it announces. */
static void hear(struct connection *connection)
{
    char *end;
    do
        hear_more(connection);
    while (!(end = strstr(connection->answer, "\r\n")));
    if (connection->answer[0] == '-')
        die("redis: %s", connection->answer);
    long announced = connection->answer[0] == '$' ? strtol(connection->answer + 1, NULL, 10) : -1;
    if (announced < 0)
        return;
    size_t whole = (size_t)(end + 2 - connection->answer) + (size_t)announced + 2;
    while (connection->length < whole)
        hear_more(connection);
}

/* Sends a command, each of its words with its length before it. */
static void command(struct connection *connection, int count, const char *const *words)
{
    char text[1024];
    size_t length = (size_t)snprintf(text, sizeof text, "*%d\r\n", count);
    for (int i = 0; i < count; i++)
        length += (size_t)snprintf(text + length, sizeof text - length, "$%zu\r\n%s\r\n", strlen(words[i]), words[i]);
    say(connection, text, length);
    hear(connection);
}

static inline void name(char *key, size_t bytes, uint64_t object)
{
    snprintf(key, bytes, "object-%llu", (unsigned long long)object);
}

static void set_if_absent(void *context, uint64_t object, bool shared)
{
    (void)shared;
    struct rank *rank = context;
    char key[32];
    name(key, sizeof key, object);
    snprintf(rank->token, sizeof rank->token, "%d-%llu", rank->member.rank, (unsigned long long)rank->turn++);
    const char *const words[] = {"SET", key, rank->token, "NX", "PX", LEASE_MS};
    do
        command(&rank->connection, 6, words);
    while (rank->connection.answer[0] != '+');
}

static void delete_if_own(void *context, uint64_t object, bool shared)
{
    (void)shared;
    struct rank *rank = context;
    char key[32];
    name(key, sizeof key, object);
    const char *const words[] = {"EVALSHA", rank->script, "1", key, rank->token};
    command(&rank->connection, 5, words);
    if (strcmp(rank->connection.answer, ":1\r\n"))
        die("redis: the lock was lost: %s", rank->connection.answer);
}

static void increment(void *context, uint64_t object, bool shared)
{
    (void)shared;
    struct rank *rank = context;
    char key[32];
    name(key, sizeof key, object);
    const char *const words[] = {"INCR", key};
    command(&rank->connection, 2, words);
}

static void run_rank(const struct options *options, int number)
{
    struct rank rank = {.member = {team, number}};
    connect_to(&rank.connection, options);
    struct contestant contestant = {.meet = meet_team, .from_rank_0 = team_word_of_rank_0};
    if (number == 0)
        command(&rank.connection, 1, (const char *const[]){"FLUSHALL"});
    meet_team(&rank);
    if (is_object(options, "counter")) {
        contestant.acquire = increment;
    } else {
        command(&rank.connection, 3, (const char *const[]){"SCRIPT", "LOAD", RELEASE});
        snprintf(rank.script, sizeof rank.script, "%.40s", strstr(rank.connection.answer, "\r\n") + 2);
        contestant.acquire = set_if_absent;
        contestant.release = delete_if_own;
    }
    contend(options, number, contestant, &rank);
    close(rank.connection.socket);
}

int main(int count, char **arguments)
{
    struct options options = parse_contest(count, arguments);
    team = share_team(options.ranks);
    return run_ranks_as_processes(&options, run_rank) ? 0 : 1;
}
