/*
 * What the C library and the kernel have for processes of one machine: `--system robust`, a robust process-shared
 * pthread mutex; `rwlock`, a process-shared pthread_rwlock (which cannot be robust); `semaphore`, a process-shared
 * sem_t; `flock`, on a file for each object; `atomic`, a counter in shared memory.
 */
#include "contest.h"
#include "processes.h"
#include <fcntl.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <sys/file.h>

/* An object each on lines of its own. */
union object {
    pthread_mutex_t mutex;
    pthread_rwlock_t rwlock;
    sem_t semaphore;
    _Atomic uint64_t number;
} __attribute__((aligned(128)));

static struct team *team;
static union object *objects;
static const char *which;

struct rank {
    /* First, so that a rank is a member, too. */
    struct member member;
    int *files;
};

static inline void must(const char *what, int error)
{
    if (error)
        die("%s: %s", what, strerror(error));
}

static inline void lock_mutex(void *context, uint64_t object, bool shared)
{
    (void)context;
    (void)shared;
    must("pthread_mutex_lock", pthread_mutex_lock(&objects[object].mutex));
}

static inline void unlock_mutex(void *context, uint64_t object, bool shared)
{
    (void)context;
    (void)shared;
    must("pthread_mutex_unlock", pthread_mutex_unlock(&objects[object].mutex));
}

static inline void lock_rwlock(void *context, uint64_t object, bool shared)
{
    (void)context;
    pthread_rwlock_t *lock = &objects[object].rwlock;
    must("pthread_rwlock", shared ? pthread_rwlock_rdlock(lock) : pthread_rwlock_wrlock(lock));
}

static inline void unlock_rwlock(void *context, uint64_t object, bool shared)
{
    (void)context;
    (void)shared;
    must("pthread_rwlock_unlock", pthread_rwlock_unlock(&objects[object].rwlock));
}

static inline void take_permit(void *context, uint64_t object, bool shared)
{
    (void)context;
    (void)shared;
    while (sem_wait(&objects[object].semaphore))
        if (errno != EINTR)
            die("sem_wait: %s", strerror(errno));
}

static inline void give_permit(void *context, uint64_t object, bool shared)
{
    (void)context;
    (void)shared;
    must("sem_post", sem_post(&objects[object].semaphore) ? errno : 0);
}

static inline void lock_file(void *context, uint64_t object, bool shared)
{
    while (flock(((struct rank *)context)->files[object], shared ? LOCK_SH : LOCK_EX))
        if (errno != EINTR)
            die("flock: %s", strerror(errno));
}

static inline void unlock_file(void *context, uint64_t object, bool shared)
{
    (void)shared;
    must("flock", flock(((struct rank *)context)->files[object], LOCK_UN) ? errno : 0);
}

static inline void add_one(void *context, uint64_t object, bool shared)
{
    (void)context;
    (void)shared;
    atomic_fetch_add_explicit(&objects[object].number, 1, memory_order_acq_rel);
}

/* A description of its own for each rank: one that is inherited would share its parent's lock. */
static int *open_files(const struct options *options)
{
    int *files = calloc(options->objects, sizeof *files);
    if (!files)
        die("no memory for %llu files", (unsigned long long)options->objects);
    for (uint64_t object = 0; object < options->objects; object++) {
        char path[4096];
        if (snprintf(path, sizeof path, "%s/%llu.lock", options->out, (unsigned long long)object) >= (int)sizeof path)
            die("--out: path too long");
        files[object] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (files[object] < 0)
            die("%s: %s", path, strerror(errno));
    }
    return files;
}

static void prepare_object(const struct options *options, union object *object)
{
    if (!strcmp(which, "robust")) {
        pthread_mutexattr_t attributes;
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        must("pthread_mutex_init", pthread_mutex_init(&object->mutex, &attributes));
    } else if (!strcmp(which, "rwlock")) {
        pthread_rwlockattr_t attributes;
        pthread_rwlockattr_init(&attributes);
        pthread_rwlockattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
        must("pthread_rwlock_init", pthread_rwlock_init(&object->rwlock, &attributes));
    } else if (!strcmp(which, "semaphore")) {
        must("sem_init", sem_init(&object->semaphore, 1, (unsigned)options->permits) ? errno : 0);
    }
}

static void run_rank(const struct options *options, int number)
{
    struct rank rank = {{team, number}, NULL};
    struct contestant contestant = {.meet = meet_team, .from_rank_0 = team_word_of_rank_0};
    /* Each with its functions in sight, so that all is inlined. */
#define CONTEND(take, give)                 \
    do {                                    \
        contestant.acquire = take;          \
        contestant.release = give;          \
        contend(options, number, contestant, &rank); \
    } while (0)
    if (!strcmp(which, "robust")) {
        CONTEND(lock_mutex, unlock_mutex);
    } else if (!strcmp(which, "rwlock")) {
        CONTEND(lock_rwlock, unlock_rwlock);
    } else if (!strcmp(which, "semaphore")) {
        CONTEND(take_permit, give_permit);
    } else if (!strcmp(which, "flock")) {
        rank.files = open_files(options);
        CONTEND(lock_file, unlock_file);
        free(rank.files);
    } else if (!strcmp(which, "atomic")) {
        CONTEND(add_one, NULL);
    } else {
        die("unknown system: %s", which);
    }
#undef CONTEND
}

int main(int count, char **arguments)
{
    if (count < 2)
        die("the first argument names the system");
    which = arguments[1];
    struct options options = parse_contest(count - 1, arguments + 1);
    team = share_team(options.ranks);
    objects = share(options.objects * sizeof *objects);
    for (uint64_t object = 0; object < options.objects; object++)
        prepare_object(&options, &objects[object]);
    return run_ranks_as_processes(&options, run_rank) ? 0 : 1;
}
