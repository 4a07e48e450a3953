#!/bin/bash
# mutants.sh: shows that the tests fail when a safety mechanism is taken out of the fabric
#
#   tests/fabric/mutants.sh [BUILD] [NAME-PART]
#
# Each line of the table is a name, a file, the test that should notice, and a sed script that
# breaks one promise. The file is compiled anew and linked before the library of BUILD, a finished
# build. A mutant that the test lets live is printed as SURVIVED; the exit status says how many.
set -u
top=$(cd "$(dirname "$0")/../.." && pwd)
build=${1:-$top/build}
part=${2:-}
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
survivors=0
export TMPDIR=$dir # what a crashed test leaves goes with it

flags=(-std=gnu17 -D_GNU_SOURCE -O1 -w -I "$top/src" -I "$top/include" -I "$top/tests/fabric")
libraries=("$build/src/fabric/libfabric.a" "$build/src/base/libbase.a"
	"$build/src/base/libpage_hash.a" -lcmocka -lcrypto -lmicrohttpd -lboost_context -lpthread)

# The tests, once; a mutant is linked before the library, and so stands in for one of its files.
compile_all() {
	local file
	for file in "$top"/tests/fabric/*.c; do
		gcc "${flags[@]}" -c "$file" -o "$dir/$(basename "$file" .c).o" &
		[[ $(jobs -rp | wc -l) -ge 2 ]] && wait -n
	done
	wait
}

# The object files of a test program.
objects_of() {
	case $1 in
	stranger | hostile_*) echo "$1" attacker harness harness_sim ;;
	*) echo "$1" harness harness_sim ;;
	esac
}

run_mutant() {
	local file=$1 program=$2 argument=$3 script=$4 sources=() object
	sed "$script" "$top/src/fabric/$file" >"$dir/$file"
	if cmp -s "$top/src/fabric/$file" "$dir/$file"; then
		echo "SURVIVED: the script changes nothing"
		return
	fi
	# shellcheck disable=SC2046
	for object in $(objects_of "$program"); do
		sources+=("$dir/$object.o")
	done
	if ! gcc "${flags[@]}" "$dir/$file" "${sources[@]}" "${libraries[@]}" -o "$dir/test" \
		2>"$dir/log"; then
		echo "SURVIVED: does not compile"
		return
	fi
	# shellcheck disable=SC2086
	timeout 90 "$dir/test" $argument >"$dir/log" 2>&1
	case $? in
	0) echo SURVIVED ;;
	124) echo "killed by a hang" ;;
	*)
		if grep -q 'ERROR   \]' "$dir/log"; then
			echo "killed by $(grep -m1 -B99 'ERROR   \]' "$dir/log" | grep -o 'RUN      \] [a-z_0-9]*' |
				tail -1 | cut -d' ' -f8)"
		else
			echo "killed by a crash"
		fi
		;;
	esac
}

compile_all
while IFS='@' read -r name file test script; do
	[[ $name == *$part* ]] || continue
	read -r program argument <<<"$test"
	verdict=$(run_mutant "$file" "$program" "$argument" "$script")
	[[ $verdict == SURVIVED* ]] && survivors=$((survivors + 1))
	printf '%-46s %s\n' "$name" "$verdict"
done <<'TABLE'
hello: any version@hello.c@stranger tcp@s/frame->version != HELLO_VERSION/false/
hello: any proof@hello.c@stranger tcp@s/if (!secret_equal(mac, frame->proof.mac, sizeof(mac)))/if (false)/
hello: a proof of nonces alone@hello.c@stranger tcp@s/return hmac_sha256(secret, &transcript, sizeof(transcript), mac);/return hmac_sha256(secret, transcript.connector.hello.nonce, 32, mac);/
hello: the acceptor proves itself first@hello.c@stranger tcp@s/err = prove(hello, self, other, mac);/err = prove(hello, self, other, mac); if (hello->role == HELLO_ACCEPTOR) { send_proof(hello, self, answer, answers); hello->state = HELLO_PROVEN; return 0; }/
hello: no key is a key@hello.c@stranger tcp@s/secret->len_bytes == 0/true/
hello: an id of nobody@hello.c@stranger tcp@s/ || frame->hello.id == 0//
hello: of another transport@hello.c@stranger tcp@s/frame->transport != self->transport || //
hello: operations without bound@hello.c@stranger tcp@s/frame->hello.operations_max > HELLO_OPERATIONS_MAX ||/false ||/
hello: a boot id without end@hello.c@stranger tcp@s/memchr(frame->hello.boot_id, 0, FABRIC_BOOT_ID_BYTES) == NULL/false/
tcp: beyond loopback without a key@tcp.c@stranger tcp@s/return tcp->self.secret->len_bytes == 0 \&\& !is_loopback(address) ? -EACCES : 0/return 0/
tcp: a silent stranger stays@tcp.c@stranger tcp@s/if (now_ns < end_ns)/if (true)/
tcp: strangers without bound@tcp.c@stranger tcp@s/tcp->pending_count < TCP_PENDING_MAX/true/
tcp: a silent peer stays@tcp.c@process tcp@s/if (now_ns - peer->heard_ns >= options->silence_ns ||/if (false ||/
tcp: no heartbeats@tcp.c@hostile_tcp@s/tcp_peer_ping(peer);/(void)0;/
tcp: any key@tcp_server.c@conformance tcp@s/if (!export || export->epoch != frame->epoch)/if (!export) export = peer->last_export; if (!export || export->epoch != frame->epoch)/
tcp: any epoch@tcp_server.c@conformance tcp@s/ || export->epoch != frame->epoch//
tcp: any offset@tcp_server.c@hostile_tcp@s/if (frame->offset > export->size_bytes ||.*{/if (false) {/
tcp: bounds that overflow@tcp_server.c@hostile_tcp@s/if (frame->offset > export->size_bytes ||.*{/if (frame->offset + len_bytes > export->size_bytes) {/
tcp: atomics between words@tcp_server.c@hostile_tcp@s/frame->offset % sizeof(uint64_t) != 0/false/
tcp: a fence leaves replies@tcp_server.c@hostile_tcp@s/if (out_detach(&peer->out, export->memory, export->size_bytes) != 0)/if (false)/
tcp: a fence leaves a write@tcp_server.c@conformance tcp@s/divert_write(peer, export);/(void)divert_write;/
tcp: a fence forgets its cache@tcp_server.c@conformance tcp@/^int tcp_server_withdraw/,/^}/{s/peer->last_export = NULL;//;s/free(export);//}
tcp: a compare that always swaps@tcp_server.c@conformance tcp@s/atomic_compare_exchange_strong(word, &first, get_le64(operands + sizeof(uint64_t)));/first = atomic_exchange(word, get_le64(operands + 8));/
tcp: replies in any order@tcp_client.c@hostile_tcp@s/ || frame->sequence != peer->ops_first//
tcp: replies of any length@tcp_client.c@hostile_tcp@s/if (frame->payload_bytes != (op->kind == FABRIC_OP_WRITE ? 0 : op->len_bytes))/if (false)/
tcp: operations die with their peer unheard@tcp_client.c@conformance tcp@/^void tcp_client_fail_all/,/^}/s/complete(peer, AFAR_EPEER_DOWN)/{ peer->ops_first++; peer->peer.in_flight--; }/
tcp: a torn write is applied@tcp_peer.c@hostile_tcp@s/frame->len_bytes > TCP_WHOLE_BYTES/frame->len_bytes > 1000/
tcp: messages without bound@tcp_peer.c@conformance tcp@s/return -EAGAIN;/(void)0;/
tcp: messages overrun the events@tcp_peer.c@hostile_tcp@s/ \&\& !fabric_event_room(peer->peer.fabric)/ \&\& false/
tcp: a disconnection keeps our buffers@tcp_peer.c@conformance tcp@s/out_detach(&peer->out, NULL, 0) != 0/false/
tcp: a disconnection forgets what was sent@tcp_peer.c@conformance tcp@s/if (!was_open || /if (true || /
wire: any magic@wire.c@hostile_tcp@s/head.magic != WIRE_MAGIC || //
wire: any length@wire.c@hostile_tcp@s/head.len_bytes > limits\[head.kind\].len_bytes_max/false/
wire: kind zero@wire.c@hostile_tcp@s/head.kind == 0 || //
wire: any status@wire.c@hostile_tcp@s/reply.status > 0 || //
shm: a session that can shrink@shm_window.c@hostile_shm@s/ || !(seals \& F_SEAL_SHRINK)//
shm: any session@shm_window.c@hostile_shm@s/size_bytes > 2 \* (uint64_t)SHM_RING_MAX/false/
shm: rings of any size@shm_window.c@hostile_shm@s/ring_bytes < RING_OVERHEAD_BYTES + 2 \* FABRIC_MESSAGE_BYTES_MAX ||/false ||/
shm: exports larger than their memory@shm_window.c@hostile_shm@s/ || packet->size_bytes > size_bytes//
shm: any slot@shm_window.c@hostile_shm@s/packet->slot >= SHM_EXPORTS_MAX || //
shm: fences that do not fall@shm_window.c@conformance shm@s/atomic_fetch_add(&peer->session.our_fences\[export->slot\], 1);/;/
shm: fences that nobody looks at@shm_window.c@hostile_shm@/^int shm_window_submit/,/^}/s/if (is_fenced(op->window->transport_data))/if (false)/
shm: any epoch@shm_window.c@conformance shm@s/import->epoch != window->epoch || is_fenced(import)/is_fenced(import)/
shm: a fence that lies@shm_window.c@process shm@s/return process_is_gone(peer) ? 0 : -EBUSY;/return 0;/
shm: windows that children inherit@shm_window.c@process shm@/^int shm_window_import/,/^}/s/madvise(memory, window->size_bytes, MADV_DONTFORK);//
shm: import does not look at the socket@shm_window.c@conformance shm@s/shm_peer_take_packets(peer);//
shm: descriptors are kept@shm_peer.c@hostile_shm@/^static bool take_next_hello/,/^}/s/close(fd);/;/
shm: packets of any length@shm_peer.c@hostile_shm@s/if (received == (int)sizeof(packet))/if (true)/;s/message.msg_flags \& (MSG_TRUNC | MSG_CTRUNC)/false/
shm: no bells@shm_peer.c@process shm@s/(void)shm_peer_send_packet(peer, &bell, sizeof(bell), -1);/;/
shm: the end forgets messages@shm_peer.c@conformance shm@/^static void begin_to_drain/,/^}/s/shm_peer_take_messages(peer);/shm_peer_lost(peer, AFAR_EPEER_DOWN);/
shm: death is not heard by the busy@shm.c@process shm@s/shm->now_ns - shm->sockets_ns >= SHM_SOCKETS_NS/false/
shm: a stopped listener is waited for@shm.c@stranger shm@s/if (shm->now_ns >= end_ns)/if (false)/
shm: a living listener is replaced@shm.c@process shm@s/ \&\& !is_alive(un)//
shm: a dead listener stays@shm.c@process shm@s/ \&\& unlink(un->sun_path) == 0/ \&\& false/
fabric: windows without bounds@access.c@conformance tcp@s/if (op->offset > size_bytes || op->len_bytes > size_bytes - op->offset)/if (false)/
fabric: operations without bound@access.c@conformance shm@s/if (peer->outstanding >= peer->operations_max)/if (false)/
fabric: peers without bound@fabric.c@conformance tcp@s/if (fabric->peer_count >= options->peers_max)/if (false)/
fabric: messages are not kept@poll.c@conformance tcp@s/events_release_messages(&fabric->events);/events_release_messages(\&fabric->events); fabric->events.messages_last = fabric->events.messages_first;/
fabric: the busy hear of nothing@poll.c@process tcp@s/++fabric->polls >= POLLS_PER_LOOK/false/
ring: cursor may pass the capacity@ring.c@ring@s/room > ring->capacity || //
ring: cursor may go back@ring.c@ring@s/room < ring->room || //
ring: cursor may be misaligned@ring.c@ring@s/ || room % RING_FRAME_BYTES != 0//
ring: any sequence@ring.c@ring@s/header >> 32 != (uint32_t)ring->messages/false/
ring: any length@ring.c@ring@s/frame_bytes(length) > ring->room/false/
ring: any state@ring.c@ring@s/return condemn(ring, "unknown state")/return 0/
ring: any magic@ring.c@ring@s/shared->magic != RING_MAGIC || //
ring: any version@ring.c@ring@s/ || shared->version != RING_VERSION//
ring: any capacity@ring.c@ring@s/shared->capacity != capacity/false/
ring: a side may be opened twice@ring.c@ring@s/return -EBUSY/absent = RING_ABSENT/
ring: condemned rings go on@ring.c@ring@/^static int condemn/,/^}/s/ring->fault = fault;//
ring: no wrap-around@ring.c@ring@s/return len_bytes < left ? len_bytes : left/return len_bytes/
ring: sleepers are not told of@ring.c@ring@s/if (!atomic_load(&ring->peer->asleep) ||.*/if (true)/
ring: one sleeper, two bells@ring.c@ring@s/!atomic_exchange(&ring->peer->asleep, 0)/false/
ring: sleeps beside a message@ring.c@ring@s/if (look(ring, RING_FRAME_BYTES) == -EAGAIN)/if (true)/
ring: close forgets what is pending@ring.c@ring@/^void ring_close/,/^}/s/show_cursor(ring);//
ring: death goes unheard@ring.c@ring@s/if (ring->peer_dead)/if (false)/
ring: verdict after the cursor@ring.c@ring@/^static int look/,/^}/{s/int verdict = peer_verdict(ring);/uint64_t cursor = atomic_load(\&ring->peer->cursor); sched_yield(); int verdict = peer_verdict(ring);/;s/atomic_load(&ring->peer->cursor) +/cursor +/}
ring: cursor stored with release only@ring.c@ring@s/atomic_store(&ring->self->cursor, ring->cursor)/atomic_store_explicit(\&ring->self->cursor, ring->cursor, memory_order_release)/
TABLE
exit $survivors
