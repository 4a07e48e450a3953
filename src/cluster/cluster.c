/*
 * cluster.c: opening a cluster; its members, watched by their leases
 */
#include "cluster/cluster.h"

#include "afar/error.h"
#include "base/base.h"
#include "base/env.h"
#include "base/log.h"
#include "base/uri.h"
#include "cluster/state.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- lists ---- */

/* The scheme of an address of a list, with what parts it from the rest: "tcp://"; "" if none. */
static size_t scheme_bytes(const char *text, size_t len_bytes)
{
	static const char *const schemes[] = {"tcp://", "shm:", "sim://", "verbs://"};

	for (size_t i = 0; i < ARRAY_COUNT(schemes); i++) {
		size_t bytes = strlen(schemes[i]);

		if (len_bytes >= bytes && memcmp(text, schemes[i], bytes) == 0)
			return bytes;
	}
	return 0;
}

static int add_listed(struct cluster *cluster, const char *address, const char **reason)
{
	struct uri *uri = malloc(sizeof(*uri));
	int err;

	if (!uri)
		return -ENOMEM;
	err = uri_parse(uri, address, reason);
	free(uri);
	if (!err && cluster->members == CLUSTER_MEMBERS_MAX) {
		*reason = "too many nodes";
		err = -EINVAL;
	}
	if (err)
		return err;

	struct cluster_member *member = &cluster->member[cluster->members++].member;

	member->id = cluster->members;
	member->addresses = 1;
	member->alive = true;
	snprintf(member->address[0], sizeof(member->address[0]), "%s", address);
	return 0;
}

/* "tcp://a:1,b:2": an address without a scheme has that of the one before it. */
static int open_list(struct cluster *cluster, const char *uri, const char **reason)
{
	const char *scheme = uri;
	size_t scheme_len = scheme_bytes(uri, strlen(uri));
	int err = 0;

	if (scheme_len == 0) {
		*reason = "neither dir: nor a list of tcp://, shm: or sim:// addresses";
		return -EINVAL;
	}
	for (const char *part = uri; !err && part; part = strchr(part, ',')) {
		char address[CLUSTER_ADDRESS_BYTES];

		part += *part == ',';

		size_t len_bytes = strcspn(part, ",");
		size_t own_scheme_len = scheme_bytes(part, len_bytes);

		if (own_scheme_len > 0) {
			scheme = part;
			scheme_len = own_scheme_len;
		}
		int printed = snprintf(address, sizeof(address), "%.*s%.*s",
				       own_scheme_len ? 0 : (int)scheme_len, scheme, (int)len_bytes,
				       part);
		if (printed >= (int)sizeof(address)) {
			*reason = "an address is too long";
			return -EINVAL;
		}
		err = add_listed(cluster, address, reason);
	}
	return err;
}

/* ---- a directory ---- */

/* Reads the record that makes a directory a cluster, or makes it: one of all who try succeeds. */
static int read_or_make_root(struct cluster *cluster)
{
	struct record_cluster root;
	unsigned char bytes[sizeof(root)];
	uint64_t version;
	size_t len_bytes;
	int err = store_get(cluster->store, CLUSTER_ROOT_NAME, bytes, sizeof(bytes), &len_bytes,
			    &version);

	if (err == -ENOENT) {
		root = (struct record_cluster){.id = env_random(cluster->env) | 1};
		record_seal(&root.head, RECORD_CLUSTER, sizeof(root));
		err = store_create(cluster->store, CLUSTER_ROOT_NAME, &root, sizeof(root),
				   &version);
		if (err == -EEXIST)
			err = 0;
		if (!err)
			err = store_get(cluster->store, CLUSTER_ROOT_NAME, bytes, sizeof(bytes),
					&len_bytes, &version);
	}
	if (!err)
		err = record_decode_cluster(bytes, len_bytes, &root);
	if (!err)
		cluster->id = root.id;
	return err;
}

static int open_dir(struct cluster *cluster, const char *path)
{
	cluster->record = malloc(RECORD_VOLUME_BYTES_MAX);
	if (!cluster->record)
		return -ENOMEM;

	int err = store_dir_open(cluster->env, path, CLUSTER_ROOT_NAME, &cluster->store);

	/* What a server shows of a file may be a moment old, so a lease must be long beside it. */
	cluster->lease_ns_min = env_dir_is_remote(cluster->env, path) ? CLUSTER_LEASE_NS_REMOTE
								      : RECORD_LEASE_NS_MIN;
	if (!err)
		err = read_or_make_root(cluster);
	if (!err)
		cluster_poll(cluster);
	return err;
}

int cluster_open(struct env *env, const char *uri, struct log *log, struct cluster **result)
{
	struct cluster *cluster = calloc(1, sizeof(*cluster));
	const char *reason = NULL;
	int err;

	if (!cluster)
		return -ENOMEM;
	cluster->env = env;
	cluster->log = log;
	cluster->next_look_ns = env_now_ns(env);
	if (strncmp(uri, "dir:", 4) == 0 && uri[4] != '\0')
		err = open_dir(cluster, uri + 4);
	else
		err = open_list(cluster, uri, &reason);
	if (err) {
		log_error(log, "cluster_not_opened", "uri=%s reason=%s", uri,
			  reason ? reason : afar_strerror(err));
		cluster_close(cluster);
		return err;
	}
	*result = cluster;
	return 0;
}

void cluster_close(struct cluster *cluster)
{
	if (cluster->store)
		store_close(cluster->store);
	free(cluster->record);
	free(cluster);
}

bool cluster_has_store(const struct cluster *cluster)
{
	return cluster->store != NULL;
}

/* ---- looking at the members ---- */

static struct member_watch *find_member(struct cluster *cluster, uint64_t id)
{
	for (uint32_t i = 0; i < cluster->members; i++) {
		if (cluster->member[i].member.id == id)
			return &cluster->member[i];
	}
	return NULL;
}

static bool same_member(const struct cluster_member *a, const struct cluster_member *b)
{
	if (a->addresses != b->addresses || strcmp(a->boot_id, b->boot_id) != 0)
		return false;
	for (uint32_t i = 0; i < a->addresses; i++) {
		if (strcmp(a->address[i], b->address[i]) != 0)
			return false;
	}
	return true;
}

static void fill_member(struct cluster_member *member, const struct record_member *record)
{
	*member = (struct cluster_member){.id = record->id, .addresses = record->addresses};
	memcpy(member->address, record->address, sizeof(member->address));
	memcpy(member->boot_id, record->boot_id, sizeof(member->boot_id));
}

struct look {
	struct cluster *cluster;
	int64_t now_ns;
	bool changed;
};

/* One member's record, which is of this version now. */
static void see_member(struct look *look, const struct record_member *record, uint64_t version)
{
	struct cluster *cluster = look->cluster;
	struct member_watch *watch = find_member(cluster, record->id);
	struct cluster_member seen;

	if (!watch && cluster->members == CLUSTER_MEMBERS_MAX)
		return;
	fill_member(&seen, record);
	seen.alive = watch && watch->member.alive;
	if (!watch) {
		watch = &cluster->member[cluster->members++];
		*watch = (struct member_watch){.member = seen, .version = version + 1};
		look->changed = true;
	}
	watch->listed = true;
	if (watch->version != version) {
		watch->version = version;
		watch->changed_ns = look->now_ns;
		watch->lease_ns = record->lease_ns;
		seen.alive = true;
	} else if (look->now_ns - watch->changed_ns > lease_end_ns(watch->lease_ns)) {
		seen.alive = false;
	}
	if (seen.alive != watch->member.alive || !same_member(&seen, &watch->member))
		look->changed = true;
	watch->member = seen;
}

static void member_name(char name[STORE_NAME_BYTES], uint64_t id)
{
	snprintf(name, STORE_NAME_BYTES, "members/%016" PRIx64, id);
}

/*
 * Reads the record behind a name of the listing. One that cannot be read now is as good as one
 * that did not change: its member is alive until its lease ends.
 */
static void look_at(void *context, const char *listed_name)
{
	struct look *look = context;
	struct cluster *cluster = look->cluster;
	unsigned char bytes[sizeof(struct record_member)];
	struct record_member record;
	char name[STORE_NAME_BYTES];
	char *end;
	size_t len_bytes;
	uint64_t version;
	uint64_t id = strtoull(listed_name, &end, 16);

	if (*end != '\0' || strlen(listed_name) != 16)
		return;
	member_name(name, id);

	int err = store_get(cluster->store, name, bytes, sizeof(bytes), &len_bytes, &version);

	if (!err)
		err = record_decode_member(bytes, len_bytes, &record);
	if (!err && record.id == id) {
		see_member(look, &record, version);
	} else if (err != -ENOENT) {
		struct member_watch *watch = find_member(cluster, id);

		if (watch)
			watch->listed = true;
	}
}

/* Removes from the store those who died long ago and never said so. */
static void bury(struct cluster *cluster, const struct member_watch *watch)
{
	char name[STORE_NAME_BYTES];

	member_name(name, watch->member.id);
	if (store_remove(cluster->store, name, watch->version) == 0)
		log_info(cluster->log, "member_forgotten", "node=%016" PRIx64, watch->member.id);
}

/* Takes out of the table who is no longer in the store. */
static void drop_unlisted(struct look *look)
{
	struct cluster *cluster = look->cluster;
	uint32_t kept = 0;

	for (uint32_t i = 0; i < cluster->members; i++) {
		struct member_watch *watch = &cluster->member[i];

		if (watch->listed && cluster->joined && !watch->member.alive &&
		    look->now_ns - watch->changed_ns > CLUSTER_BURY_LEASES * watch->lease_ns)
			bury(cluster, watch);
		if (!watch->listed) {
			look->changed = true;
			continue;
		}
		watch->listed = false;
		cluster->member[kept] = *watch;
		kept++;
	}
	cluster->members = kept;
}

static void renew_self(struct cluster *cluster, int64_t now_ns)
{
	struct record_member *self = &cluster->self;
	char name[STORE_NAME_BYTES];

	cluster->next_renewal_ns = now_ns + self->lease_ns / 4;
	self->lease_counter++;
	record_seal(&self->head, RECORD_MEMBER, sizeof(*self));
	member_name(name, self->id);

	int err = store_put(cluster->store, name, self, sizeof(*self), &cluster->self_version);

	/* Somebody buried us, or an earlier write failed half-way: enter again. */
	if (err == -ENOENT || err == AFAR_ECONFLICT) {
		struct cluster_member member;

		fill_member(&member, self);
		err = cluster_join(cluster, &member, self->lease_ns);
	}
	if (err)
		log_warn(cluster->log, "membership_not_renewed", "reason=%s", afar_strerror(err));
}

bool cluster_poll(struct cluster *cluster)
{
	struct look look = {.cluster = cluster, .now_ns = env_now_ns(cluster->env)};

	if (!cluster->store)
		return false;
	if (cluster->joined && look.now_ns >= cluster->next_renewal_ns)
		renew_self(cluster, look.now_ns);
	if (look.now_ns < cluster->next_look_ns)
		return false;
	cluster->next_look_ns = look.now_ns + CLUSTER_LOOK_NS;

	int err = store_list(cluster->store, "members", look_at, &look);

	if (err) {
		log_warn(cluster->log, "members_not_read", "reason=%s", afar_strerror(err));
		return false;
	}
	drop_unlisted(&look);
	return look.changed;
}

int64_t cluster_deadline_ns(const struct cluster *cluster)
{
	if (!cluster->store)
		return INT64_MAX;
	return cluster->joined ? min_i64(cluster->next_look_ns, cluster->next_renewal_ns)
			       : cluster->next_look_ns;
}

unsigned cluster_members(struct cluster *cluster, struct cluster_member *members, unsigned max)
{
	for (uint32_t i = 0; i < cluster->members && i < max; i++)
		members[i] = cluster->member[i].member;
	return cluster->members;
}

/* ---- being a member ---- */

/* Makes the record, or replaces the one that an earlier life of ours left. */
static int enter(struct cluster *cluster)
{
	struct record_member *self = &cluster->self;
	unsigned char bytes[sizeof(*self)];
	char name[STORE_NAME_BYTES];
	size_t len_bytes;

	member_name(name, self->id);

	int err = store_create(cluster->store, name, self, sizeof(*self), &cluster->self_version);

	if (err != -EEXIST)
		return err;
	err = store_get(cluster->store, name, bytes, sizeof(bytes), &len_bytes,
			&cluster->self_version);
	if (err)
		return err;
	return store_put(cluster->store, name, self, sizeof(*self), &cluster->self_version);
}

int cluster_join(struct cluster *cluster, const struct cluster_member *self, int64_t lease_ns)
{
	struct record_member *record = &cluster->self;
	uint64_t counter = record->lease_counter;

	if (lease_ns == 0)
		lease_ns = CLUSTER_LEASE_NS_DEFAULT;
	if (self->id == 0 || self->addresses == 0 || self->addresses > CLUSTER_ADDRESSES_MAX)
		return -EINVAL;
	if (!cluster->store)
		return 0;
	if (lease_ns < cluster->lease_ns_min || lease_ns > RECORD_LEASE_NS_MAX)
		return -EINVAL;

	struct record_member fresh = {
		.id = self->id,
		.lease_counter = counter + 1,
		.lease_ns = lease_ns,
		.addresses = self->addresses,
	};

	snprintf(fresh.boot_id, sizeof(fresh.boot_id), "%s", self->boot_id);
	for (uint32_t i = 0; i < self->addresses; i++)
		snprintf(fresh.address[i], sizeof(fresh.address[i]), "%s", self->address[i]);
	record_seal(&fresh.head, RECORD_MEMBER, sizeof(fresh));
	*record = fresh;

	int err = enter(cluster);

	if (err)
		return err;
	cluster->joined = true;
	cluster->next_renewal_ns = env_now_ns(cluster->env) + lease_ns / 4;
	cluster->next_look_ns = env_now_ns(cluster->env);
	return 0;
}

int cluster_leave(struct cluster *cluster)
{
	char name[STORE_NAME_BYTES];

	if (!cluster->joined)
		return 0;
	cluster->joined = false;
	member_name(name, cluster->self.id);

	int err = store_remove(cluster->store, name, cluster->self_version);

	return err == -ENOENT ? 0 : err;
}
