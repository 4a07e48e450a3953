#!/bin/bash
# mutants.sh: breaks the promises of src/node one by one: its tests must notice
#
# usage: mutants.sh [BUILD]   (a build directory whose libraries are up to date; default: build)
cd "$(dirname "$0")/../.." || exit 2
build=${1:-build}
tests/mutants.sh node "test_protocol test_node test_evict test_hostile" stage \
	"$build/src/cluster/libcluster.a" "$build/src/fabric/libfabric.a" \
	"$build/src/base/libbase.a" "$build/src/base/libpage_hash.a" <<'TABLE'
N1: slabs are not zeroed @ node.c
	s/node->options = \*options;/&; node->options.mutations |= NODE_MUTATE_ZEROING;/
N1, N3: nobody is fenced @ node.c
	s/node->options = \*options;/&; node->options.mutations |= NODE_MUTATE_FENCING;/
N3: an older owner is served @ node.c
	s/node->options = \*options;/&; node->options.mutations |= NODE_MUTATE_OWNER_EPOCH;/
N1: handed out memory is used again @ slabs.c
	s/|| slab->handed_out ||/||/
	s/ && !slab->handed_out);/);/
N2: keys begin at the same number @ node.c
	s/(env_random(env) >> 21) + 1/1/
N2: keys are slots @ slabs.c
	s/node->next_assignment++ << NODE_SLOT_BITS/node->next_assignment << NODE_SLOT_BITS/
N3: a claim fences nothing @ owners.c
	/^static void hand_over/,/^}/{
	s/slab_fence(node, slab);//
	}
N3: stale memory is attached as it is @ requests.c
	s/if (slab->stale)/if (false)/
N3: the copy forgets the contents @ slabs.c
	/^int slab_freshen/,/^}/{
	s/memcpy(/(void)(/
	}
N3: an owner of the same epoch is another's equal @ owners.c
	s/if (owner != volume->owner)/if (false)/
N3: a claim needs no higher epoch @ owners.c
	s/owner_epoch > volume->owner_epoch/owner_epoch >= volume->owner_epoch/
N4: anybody may say that he is the owner @ owners.c
	s/if (owner != fabric_peer_id(peer))/if (false)/
N4: orphans are freed at once @ owners.c
	s/return volume->orphaned_ns + node->options.orphan_ns/return volume->orphaned_ns/
N4: orphans are never freed @ owners.c
	s/return volume->orphaned_ns + node->options.orphan_ns/return INT64_MAX/
N4: an owner that came back is an orphan still @ owners.c
	/^int volume_admit/,/^}/{
	s/volume->peer = peer;//
	}
N4: the key alone names a slab @ requests.c
	s/|| slab->piece_epoch != name->piece_epoch//
	s/slab->volume->id != name->volume ||//
	s/|| slab->piece != name->piece//
N4: anybody's answer evicts @ evict.c
	s/|| slab->volume->peer != peer//
N4: silence frees @ evict.c
	/^static void end/,/^}/{
	s/slab->noticed = false;/slab_release(node, slab, false); continue;/
	}
N4: KEEP frees @ evict.c
	s/message->evict.answer == NODE_EVICT_KEEP/false/
N5: no capacity @ slabs.c
	s/<= node->capacity_bytes;/!= 0;/
N5: no quota @ requests.c
	s/if (exceeds_quota(/if (false \&\& exceeds_quota(/
N5: quota of a volume, not of an owner @ owners.c
	s/slabs += volume->slab_count/slabs = volume->slab_count/
a repeated ALLOCATE takes another slab @ requests.c
	s/slab = slab_of_name(volume, name);/slab = NULL;/
the line of waiters is unbounded for one @ requests.c
	s/ || own == NODE_WAITING_PEER//
who waits is never told @ requests.c
	s/if (now_ns >= waiting->end_ns)/if (false)/
who died waits on @ requests.c
	/^void requests_forget/,/^}/{
	s/!= peer/!= NULL/
	}
the hottest go @ evict.c
	s/candidate->activity < found->activity/candidate->activity > found->activity/
activities are compared as signed @ evict.c
	s/candidate->activity < found->activity/(int)candidate->activity < (int)found->activity/
activity sums without dividing @ activity.h
	s/return now >= before ? before + step : before - step;/return 80 * now + 20 * before;/
the first so many go, not the coldest @ evict.c
	s/if (!found || candidate->activity < found->activity)/if (!found)/
any answer is an answer to this question @ evict.c
	s/ || message->head.request != eviction->request//
anybody tells the activity @ evict.c
	s/ || peer_of(node, candidate) != peer)/)/
after a KEEP nobody else is asked @ evict.c
	/^static bool notice_more/,/^}/{
	s/pending + done < eviction->wanted/& \&\& !eviction->candidate[0].noticed/
	}
who kept is asked again at once @ evict.c
	s/now_ns >= slab->spare_until_ns/true/
no extra candidates @ evict.c
	s/eviction->wanted + (uint32_t)max_u64(eviction->wanted, EVICT_EXTRA_MIN)/eviction->wanted/
batches without bound @ evict.c
	s/(uint32_t)min_u64(slabs, EVICT_BATCH_MAX)/(uint32_t)min_u64(slabs, 32)/
a mute owner holds everybody up @ evict.c
	s/!all_answered(node) \&\& now_ns < eviction->phase_end_ns/!all_answered(node)/
idle memory is never given back @ evict.c
	s/slab_give_back(node))/false)/
memory is not smoothed @ evict.c
	s/activity_smooth(eviction->available_bytes, now_bytes)/now_bytes/
memory is not watched @ evict.c
	s/now_ns >= eviction->next_sample_ns/node->mapped > 0 \&\& &/
the headroom is given away @ evict.c
	/^bool evict_may_grow/,/^}/{
	s/return !knows/return true || !knows/
	}
breaches are not counted @ evict.c
	s/counter_add_own(&node->counters.headroom_breaches, 1)/(void)0/
bad form is forgiven @ requests.c
	s/node_condemn(node, peer, afar_strerror(err));/;/
the condemned are heard @ node.c
	s/ \&\& !peer->condemned//
who takes no answers is kept @ requests.c
	s/node_condemn(node, peer, "takes no answers");/;/
counts are not checked @ protocol.c
	s/return counts_are_bounded(message) ? 0 : -EPROTO/return 0/
lengths are not checked @ protocol.c
	s/if (len_bytes != node_message_bytes(head.kind))/if (false)/
versions are not checked @ protocol.c
	s/if (head.version != NODE_PROTOCOL_VERSION)/if (false)/
the rest of a message is not cleared @ protocol.c
	s/memset(message, 0, sizeof(\*message));//
volumes are remembered without bound @ owners.c
	s/&& !forget_oldest_empty(node)/\&\& true/
a full list ends too early @ requests.c
	s/message->list.cursor = slot < node->slot_count ? slot : 0/message->list.cursor = 0/
TABLE
