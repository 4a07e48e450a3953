#!/bin/bash
# mutants.sh: breaks the promises of src/cluster one by one: its tests must notice
#
# usage: mutants.sh [BUILD]   (a build directory whose libraries are up to date; default: build)
cd "$(dirname "$0")/../.." || exit 2
build=${1:-build}
tests/mutants.sh cluster "test_record test_cluster test_store_dir" store_conformance \
	"$build/src/base/libbase.a" "$build/src/base/libpage_hash.a" <<'TABLE'
S1: files are written in place @ store_dir.c
	s/err = env_file_write(/err = write_in_place(/
	/^static int dir_put/i static int write_in_place(struct env *env, const char *path, \
	const void *bytes, size_t len) { FILE *file = fopen(path, "w"); if (!file) return -5; \
	fwrite(bytes, 1, len, file); fclose(file); return 0; }
S2: nobody compares versions @ store_dir.c
	s/head.version != \*version/false/
S2: a removal takes any version @ store_dir.c
	s/head.version != version/false/
S2: compare and swap without the lock @ store_dir.c
	s/return env_lock(dir->env, path);/return 1000;/
S4: versions begin at 1 @ store_dir.c
	s/(env_random(dir->env) >> 16) + 1/1/
S5: the head's checksum is not looked at @ store_dir.c
	s/head->crc != head_crc(head) || //
S5: the length is not looked at @ store_dir.c
	s/ || head->len_bytes != len_bytes - sizeof(\*head)//
names may lead anywhere @ store_dir.c
	s/if (!letter/if (false \&\& !letter/
	s/part\[0\] == '.'/false/
a directory of something else is taken @ store_dir.c
	s/return err == -ENOENT ? -ENOTEMPTY : err;/return err == -ENOENT ? 0 : err;/
a stranger is looked for once @ store_dir.c
	/^static int check_ours/,/^}/{
	s/if (err || !strange)/if (strange) return -ENOTEMPTY; if (err || !strange)/
	}
the second to open a new cluster fails @ cluster.c
	s/if (err == -EEXIST)/if (false)/
records: the checksum is not looked at @ record.c
	s/head.crc != record_crc(bytes, len_bytes)/false/
records: versions are not looked at @ record.c
	s/if (head.version != RECORD_VERSION)/if (false)/
records: the count of pieces is believed @ record.c
	s/found.pieces > CLUSTER_PIECES_MAX ||/false ||/
	s/len_bytes != sizeof(found) + found.pieces \* sizeof(\*volume->map)/false/
records: leases of any length @ record.c
	/^static bool lease_is_sane/,/^}/{
	s/return .*;/return true;/
	s/^\t *lease_ns <=.*//
	}
records: texts without an end @ record.c
	s/return memchr(text.*/return true;/
a lease ends at once @ volume_records.c
	s/now_ns - watch->changed_ns <= lease_end_ns(lease->lease_ns)/false/
a lease never ends @ volume_records.c
	s/now_ns - watch->changed_ns <= lease_end_ns(lease->lease_ns)/true/
a lease that moved is not seen @ volume_records.c
	s/if (!known || watch->version != version)/if (!known)/
a claim keeps owner_epoch @ volume_records.c
	s/record->owner_epoch++;//
a claim does not rewrite the volume @ volume_records.c
	/^static int take_volume/,/^}/{
	s/err = write_volume(cluster, record);/err = 0;/
	}
a claim does not count claims that died @ volume_records.c
	s/lease.owner_epoch > record->owner_epoch/false/
a late owner updates all the same @ volume_records.c
	s/if (!ours)/if (false)/
a late owner renews all the same @ volume_records.c
	s/!is_ours(&lease, record)/false/
a refused update learns the version @ volume_records.c
	s/volume_record_release(&found);/& record->version = found.version;/
an owner cannot go on after an error @ volume_records.c
	/^static int swap_own_lease/,/^}/{
	s/if (err == AFAR_ECONFLICT)/if (false)/
	}
what was given up is watched @ volume_records.c
	s/return lease.owner == 0 ? 0 : /return /
a lease of a removed volume stands in the way @ volume_records.c
	s/if (lease.volume != record->id)/if (false)/
	s/if (!err \&\& old.volume == record->id)/if (!err)/
members never die @ cluster.c
	s/look->now_ns - watch->changed_ns > lease_end_ns(watch->lease_ns)/false/
members are not renewed @ cluster.c
	s/if (cluster->joined \&\& look.now_ns >= cluster->next_renewal_ns)/if (false)/
members that were buried stay away @ cluster.c
	s/if (err == -ENOENT || err == AFAR_ECONFLICT)/if (false)/
nobody is ever buried @ cluster.c
	s/bury(cluster, watch);/;/
every renewal is a change @ cluster.c
	/^static void see_member/,/^}/{
	s/watch->version = version;/& look->changed = true;/
	}
TABLE
