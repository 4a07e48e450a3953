/*
 * volume_records.c: who owns a volume, and where its pieces are (see the story in cluster.h)
 *
 *   leases/NAME decides who owns; volumes/NAME holds the map. Every change of either is a
 *   compare-and-swap against the version that we wrote or read last, kept in the record.
 */
#include "cluster/cluster.h"

#include "afar/error.h"
#include "base/env.h"
#include "cluster/state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* How often a claimant reads again because the old owner is still writing. */
#define REWRITES_MAX 8

static int name_of(char name[STORE_NAME_BYTES], const char *folder, const char *volume)
{
	/* Longer than a record's field, or with a slash: no name of a volume. */
	if (strnlen(volume, CLUSTER_VOLUME_NAME_BYTES) == CLUSTER_VOLUME_NAME_BYTES ||
	    strchr(volume, '/') || !store_name_is_valid(volume))
		return -EINVAL;
	snprintf(name, STORE_NAME_BYTES, "%s/%s", folder, volume);
	return 0;
}

/* ---- leases/NAME ---- */

static int read_lease(struct cluster *cluster, const char *volume, struct record_lease *lease,
		      uint64_t *version)
{
	unsigned char bytes[sizeof(*lease)];
	char name[STORE_NAME_BYTES];
	size_t len_bytes;
	int err = name_of(name, "leases", volume);

	if (!err)
		err = store_get(cluster->store, name, bytes, sizeof(bytes), &len_bytes, version);
	if (!err)
		err = record_decode_lease(bytes, len_bytes, lease);
	return err;
}

/* Writes the lease that *record says; *version 0: there is none yet. */
static int write_lease(struct cluster *cluster, const struct volume_record *record,
		       uint64_t *version)
{
	struct record_lease lease = {
		.volume = record->id,
		.owner = record->owner,
		.owner_nonce = record->owner_nonce,
		.lease_counter = record->lease_counter,
		.lease_ns = record->lease_ns,
		.owner_epoch = record->owner_epoch,
	};
	char name[STORE_NAME_BYTES];
	int err = name_of(name, "leases", record->name);

	if (err)
		return err;
	record_seal(&lease.head, RECORD_LEASE, sizeof(lease));
	if (*version == 0)
		return store_create(cluster->store, name, &lease, sizeof(lease), version);
	return store_put(cluster->store, name, &lease, sizeof(lease), version);
}

static bool is_ours(const struct record_lease *lease, const struct volume_record *record)
{
	return lease->volume == record->id && lease->owner == record->owner &&
	       lease->owner_nonce == record->owner_nonce &&
	       lease->owner_epoch == record->owner_epoch;
}

/*
 * Swaps our lease for what *record says now. A swap that fails by its version may have met our
 * own write, of which an errno left open whether it happened: then it is ours, and goes on.
 */
static int swap_own_lease(struct cluster *cluster, struct volume_record *record,
			  const struct volume_record *next)
{
	struct record_lease lease;
	uint64_t version = record->lease_version;
	int err = write_lease(cluster, next, &version);

	if (err == AFAR_ECONFLICT) {
		err = read_lease(cluster, record->name, &lease, &version);
		if (!err && !is_ours(&lease, record))
			return AFAR_ELEASE;
		if (!err)
			err = write_lease(cluster, next, &version);
	}
	if (err == -ENOENT || err == AFAR_ECONFLICT)
		return AFAR_ELEASE;
	if (!err)
		record->lease_version = version;
	return err;
}

/* ---- volumes/NAME ---- */

static int read_volume(struct cluster *cluster, const char *volume, struct volume_record *record)
{
	char name[STORE_NAME_BYTES];
	size_t len_bytes;
	uint64_t version;
	int err = name_of(name, "volumes", volume);

	if (!err)
		err = store_get(cluster->store, name, cluster->record, RECORD_VOLUME_BYTES_MAX,
				&len_bytes, &version);
	if (!err)
		err = record_decode_volume(cluster->record, len_bytes, record);
	if (err)
		return err;
	record->version = version;
	if (strcmp(record->name, volume) != 0) {
		volume_record_release(record);
		return -EPROTO;
	}
	return 0;
}

/* Writes *record over the version that it knows; version 0: makes it. */
static int write_volume(struct cluster *cluster, struct volume_record *record)
{
	char name[STORE_NAME_BYTES];
	size_t len_bytes = record_volume_bytes(record);
	int err = name_of(name, "volumes", record->name);

	if (err)
		return err;
	record_encode_volume(record, (struct record_volume *)(void *)cluster->record);
	if (record->version == 0)
		return store_create(cluster->store, name, cluster->record, len_bytes,
				    &record->version);
	return store_put(cluster->store, name, cluster->record, len_bytes, &record->version);
}

/* ---- create ---- */

static bool can_be_created(const struct cluster *cluster, const struct volume_record *record)
{
	return record->id != 0 && record->owner != 0 && record->pieces <= CLUSTER_PIECES_MAX &&
	       record->slab_bytes != 0 && record->replicas != 0 &&
	       record->replicas <= CLUSTER_COPIES_MAX &&
	       record->lease_ns >= cluster->lease_ns_min && record->lease_ns <= RECORD_LEASE_NS_MAX;
}

/* The first lease. What may be there is that of a volume of this name that was removed. */
static int create_lease(struct cluster *cluster, struct volume_record *record)
{
	struct record_lease old;
	uint64_t version = 0;
	int err = write_lease(cluster, record, &version);

	if (err == -EEXIST) {
		err = read_lease(cluster, record->name, &old, &version);
		/* Of this very volume: somebody claimed it between our two steps. */
		if (!err && old.volume == record->id)
			return AFAR_ECONFLICT;
		if (!err)
			err = write_lease(cluster, record, &version);
	}
	if (!err)
		record->lease_version = version;
	return err;
}

int volume_record_create(struct cluster *cluster, struct volume_record *record)
{
	char name[STORE_NAME_BYTES];

	if (!cluster->store)
		return -ENOTSUP;
	if (record->lease_ns == 0)
		record->lease_ns = CLUSTER_LEASE_NS_DEFAULT;
	if (name_of(name, "volumes", record->name) != 0 || !can_be_created(cluster, record))
		return -EINVAL;
	record->owner_epoch = 1;
	record->lease_counter = 1;
	record->version = 0;

	int err = write_volume(cluster, record);

	return err ? err : create_lease(cluster, record);
}

/* ---- claim ---- */

/* The place that watches this volume, or else the one that was not asked about for longest. */
static struct lease_watch *find_watch(struct cluster *cluster, const char *volume)
{
	struct lease_watch *oldest = &cluster->watch[0];

	for (unsigned i = 0; i < CLUSTER_WATCHES_MAX; i++) {
		struct lease_watch *watch = &cluster->watch[i];

		if (strcmp(watch->name, volume) == 0)
			return watch;
		if (watch->name[0] == '\0' ||
		    (oldest->name[0] != '\0' && watch->changed_ns < oldest->changed_ns))
			oldest = watch;
	}
	return oldest;
}

/* 0: the lease has ended. AFAR_EOWNED: it moved since the last look. -EAGAIN: not yet known. */
static int watch_lease(struct cluster *cluster, const char *volume,
		       const struct record_lease *lease, uint64_t version)
{
	struct lease_watch *watch = find_watch(cluster, volume);
	int64_t now_ns = env_now_ns(cluster->env);
	bool known = strcmp(watch->name, volume) == 0;

	if (!known || watch->version != version) {
		snprintf(watch->name, sizeof(watch->name), "%s", volume);
		watch->version = version;
		watch->changed_ns = now_ns;
		return known ? AFAR_EOWNED : -EAGAIN;
	}
	if (now_ns - watch->changed_ns <= lease_end_ns(lease->lease_ns))
		return -EAGAIN;
	watch->name[0] = '\0';
	return 0;
}

/*
 * Makes the volume's record ours, now that the lease is. The old owner may be writing it still:
 * read what it wrote and try again. Its last success is in what we keep, for a write of its own
 * that comes after ours fails.
 */
static int take_volume(struct cluster *cluster, struct volume_record *record)
{
	struct volume_record ours = *record;

	for (int tries = 0; tries < REWRITES_MAX; tries++) {
		volume_record_release(record);

		int err = read_volume(cluster, ours.name, record);

		if (err)
			return err;
		if (record->id != ours.id) {
			volume_record_release(record);
			return AFAR_ECONFLICT;
		}
		record->owner = ours.owner;
		record->owner_nonce = ours.owner_nonce;
		record->owner_epoch = ours.owner_epoch;
		record->lease_counter = ours.lease_counter;
		record->lease_ns = ours.lease_ns;
		record->lease_version = ours.lease_version;
		err = write_volume(cluster, record);
		if (err != AFAR_ECONFLICT) {
			if (err)
				volume_record_release(record);
			return err;
		}
	}
	volume_record_release(record);
	return AFAR_ECONFLICT;
}

/* Whether the volume may be claimed now, and what its next lease follows upon. */
static int look_at_lease(struct cluster *cluster, const char *name, struct volume_record *record)
{
	struct record_lease lease = {0};
	uint64_t version = 0;
	int err = read_lease(cluster, name, &lease, &version);

	record->lease_ns = CLUSTER_LEASE_NS_DEFAULT;
	record->lease_version = version;
	/* No lease: the owner died while it made the volume. */
	if (err == -ENOENT) {
		record->lease_version = 0;
		return 0;
	}
	if (err)
		return err;
	record->lease_counter = lease.lease_counter;
	if (lease.volume != record->id)
		return 0;
	record->lease_ns = lease.lease_ns;
	if (lease.owner_epoch > record->owner_epoch)
		record->owner_epoch = lease.owner_epoch;
	return lease.owner == 0 ? 0 : watch_lease(cluster, name, &lease, version);
}

int volume_record_claim(struct cluster *cluster, const char *name, uint64_t owner,
			uint64_t owner_nonce, struct volume_record *record)
{
	if (!cluster->store)
		return -ENOTSUP;
	if (owner == 0)
		return -EINVAL;

	int err = read_volume(cluster, name, record);

	if (err)
		return err;
	err = look_at_lease(cluster, name, record);
	if (!err) {
		record->owner = owner;
		record->owner_nonce = owner_nonce;
		record->owner_epoch++;
		record->lease_counter++;
		err = write_lease(cluster, record, &record->lease_version);
		if (err == -EEXIST || err == -ENOENT)
			err = AFAR_ECONFLICT;
	}
	if (err) {
		volume_record_release(record);
		return err;
	}
	return take_volume(cluster, record);
}

/* ---- being the owner ---- */

/* 0: the record says that we own the volume; whether that is still so, the store will tell. */
static int check_owned(const struct cluster *cluster, const struct volume_record *record)
{
	if (!cluster->store)
		return -ENOTSUP;
	return record->owner == 0 ? AFAR_ELEASE : 0;
}

/* Whatever the caller does with the record from now on: it is nobody's. */
static void disown(struct volume_record *record)
{
	record->owner = 0;
	record->owner_nonce = 0;
}

int volume_record_update(struct cluster *cluster, struct volume_record *record)
{
	struct volume_record found;
	int err = check_owned(cluster, record);

	if (err)
		return err;
	err = write_volume(cluster, record);
	/* As for the lease: the version that we met may be our own. */
	if (err == AFAR_ECONFLICT) {
		err = read_volume(cluster, record->name, &found);
		if (err)
			return err == -ENOENT ? AFAR_ELEASE : err;

		bool ours = found.id == record->id && found.owner == record->owner &&
			    found.owner_nonce == record->owner_nonce &&
			    found.owner_epoch == record->owner_epoch;

		volume_record_release(&found);
		if (!ours)
			return AFAR_ELEASE;
		record->version = found.version;
		err = write_volume(cluster, record);
	}
	return err == AFAR_ECONFLICT || err == -ENOENT ? AFAR_ELEASE : err;
}

int volume_record_renew(struct cluster *cluster, struct volume_record *record)
{
	struct volume_record next = *record;
	int err = check_owned(cluster, record);

	next.lease_counter++;
	if (!err)
		err = swap_own_lease(cluster, record, &next);
	if (!err)
		record->lease_counter = next.lease_counter;
	return err;
}

int volume_record_give_up(struct cluster *cluster, struct volume_record *record)
{
	struct volume_record next = *record;
	int err = check_owned(cluster, record);

	next.lease_counter++;
	disown(&next);
	if (!err)
		err = swap_own_lease(cluster, record, &next);
	if (!err)
		disown(record);
	return err;
}

int volume_record_remove(struct cluster *cluster, struct volume_record *record)
{
	char name[STORE_NAME_BYTES];
	/* An update that changes nothing proves that it is ours, and learns the version. */
	int err = volume_record_update(cluster, record);

	if (!err)
		err = name_of(name, "volumes", record->name);
	if (!err)
		err = store_remove(cluster->store, name, record->version);
	if (err)
		return err == AFAR_ECONFLICT || err == -ENOENT ? AFAR_ELEASE : err;
	/* A lease without a volume means nothing: if this fails, the next create writes over it. */
	if (name_of(name, "leases", record->name) == 0)
		store_remove(cluster->store, name, record->lease_version);
	disown(record);
	return 0;
}

void volume_record_release(struct volume_record *record)
{
	free(record->map);
	record->map = NULL;
}

int volume_record_read(struct cluster *cluster, const char *name, struct volume_record *record)
{
	return cluster->store ? read_volume(cluster, name, record) : -ENOTSUP;
}

int volume_record_list(struct cluster *cluster, void (*each)(void *context, const char *name),
		       void *context)
{
	if (!cluster->store)
		return -ENOTSUP;
	return store_list(cluster->store, "volumes", each, context);
}
