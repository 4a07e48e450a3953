/*
 * hostile_shm.c: a process of this host that holds the key and breaks the protocol all the same
 *
 *   It makes the session that both share, hands over descriptors of its choice, and writes what
 *   it likes into the memory. The fabric ends that connection, counts it, and stays whole.
 */
#include "attacker.h"
#include "harness.h"

#include "afar/error.h"
#include "base/base.h"
#include "fabric/ring.h"
#include "fabric/shm.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define RING_CAPACITY 16384u
#define RING_BYTES    (RING_OVERHEAD_BYTES + RING_CAPACITY)
#define FENCES_BYTES  (SHM_EXPORTS_MAX * 4u)
#define SESSION_BYTES (2 * RING_BYTES + 2 * FENCES_BYTES)
#define ALL_SEALS     (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

/* An attacker with a session, if it got so far; and an honest client beside it. */
struct scene {
	struct net *net;
	struct member *server;
	struct member *client;
	struct attacker attacker;
	struct fabric_peer *at_server;
	int session_fd;
	unsigned char *session;
	struct ring tx;
	struct memory other; /* the client's */
	struct fabric_window *window;
};

static int make_memfd(size_t size_bytes, int seals)
{
	int fd = memfd_create("attack", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)size_bytes), 0);
	assert_int_equal(fcntl(fd, F_ADD_SEALS, seals), 0);
	return fd;
}

static int scene_open(void **state)
{
	struct scene *scene = calloc(1, sizeof(*scene));
	struct fabric_peer *at_server;
	struct fabric_peer *at_client;

	assert_non_null(scene);
	scene->net = net_open(NET_SHM);
	scene->server = net_add_server(scene->net, NULL);
	scene->client = net_add(scene->net, NULL);
	at_client = net_connect(scene->net, scene->client, scene->server, &at_server);
	memory_create(&scene->other, 4096);
	scene->window =
		net_share(scene->net, at_server, scene->client, at_client, &scene->other, 1);
	attacker_connect(&scene->attacker, scene->net, scene->server);
	scene->session_fd = make_memfd(SESSION_BYTES, ALL_SEALS);
	scene->session =
		mmap(NULL, SESSION_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, scene->session_fd, 0);
	assert_ptr_not_equal(scene->session, MAP_FAILED);
	assert_int_equal(ring_format(scene->session, RING_BYTES), 0);
	assert_int_equal(ring_format(scene->session + RING_BYTES, RING_BYTES), 0);
	assert_int_equal(ring_open(&scene->tx, scene->session, RING_BYTES, RING_PRODUCER), 0);
	*state = scene;
	return 0;
}

static int scene_close(void **state)
{
	struct scene *scene = *state;
	unsigned char buf[64];

	attacker_close(&scene->attacker);
	net_settle(scene->net);
	assert_int_equal(net_write(scene->net, scene->client, scene->window, 0, "fine", 4), 0);
	assert_int_equal(net_read(scene->net, scene->client, scene->window, 0, buf, sizeof(buf)),
			 0);
	net_close(scene->net);
	munmap(scene->session, SESSION_BYTES);
	close(scene->session_fd);
	memory_destroy(&scene->other);
	free(scene);
	return 0;
}

static void become_peer(struct scene *scene)
{
	scene->at_server =
		attacker_hello(&scene->attacker, scene->net, scene->server, scene->session_fd);
}

static void expect_crime(struct scene *scene)
{
	struct fabric_event event = net_expect(scene->net, scene->server, FABRIC_DOWN);
	struct fabric_stats stats;

	assert_ptr_equal(event.peer, scene->at_server);
	assert_int_equal(event.status, -EPROTO);
	fabric_stats(scene->server->fabric, &stats);
	assert_int_equal(stats.protocol_errors, 1);
}

/* ---- the session ---- */

static void expect_session_refused(struct scene *scene, int fd)
{
	struct hello_frame proof;

	attacker_begin_hello(&scene->attacker, scene->net, &proof);
	attacker_send_fd(&scene->attacker, &proof, sizeof(proof), fd);
	assert_int_equal(attacker_expect_end(&scene->attacker, scene->net), -EPROTO);
	assert_false(net_has_event(scene->server));
	if (fd >= 0)
		close(fd);
}

static void no_session_is_refused(void **state)
{
	expect_session_refused(*state, -1);
}

static void a_session_that_can_shrink_is_refused(void **state)
{
	expect_session_refused(*state, make_memfd(SESSION_BYTES, F_SEAL_GROW));
}

static void a_session_that_is_no_memory_is_refused(void **state)
{
	expect_session_refused(*state, open("/dev/null", O_RDWR | O_CLOEXEC));
}

static void a_session_of_no_size_is_refused(void **state)
{
	expect_session_refused(*state, make_memfd(0, ALL_SEALS));
}

static void a_session_without_rings_is_refused(void **state)
{
	expect_session_refused(*state, make_memfd(SESSION_BYTES, ALL_SEALS));
}

/* Two rings as they should be, of so much each. */
static int make_session(size_t capacity)
{
	size_t ring_bytes = RING_OVERHEAD_BYTES + capacity;
	int fd = make_memfd(2 * ring_bytes + 2 * FENCES_BYTES, ALL_SEALS);
	unsigned char *memory =
		mmap(NULL, 2 * ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	assert_ptr_not_equal(memory, MAP_FAILED);
	ring_format(memory, ring_bytes);
	ring_format(memory + ring_bytes, ring_bytes);
	munmap(memory, 2 * ring_bytes);
	return fd;
}

static void a_session_of_immense_size_is_refused(void **state)
{
	expect_session_refused(*state, make_session(2 * (size_t)SHM_RING_MAX));
}

static void a_session_whose_rings_hold_no_message_is_refused(void **state)
{
	expect_session_refused(*state, make_session(128));
}

static unsigned descriptors_open(void)
{
	DIR *directory = opendir("/proc/self/fd");
	unsigned count = 0;

	assert_non_null(directory);
	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

/* Each packet of the hello with a descriptor: those that are not wanted are not kept. */
static void descriptors_do_not_pile_up(void **state)
{
	struct scene *scene = *state;
	unsigned before = descriptors_open();

	for (unsigned i = 0; i < 50; i++) {
		struct attacker attacker;

		attacker_connect(&attacker, scene->net, scene->server);
		attacker_send_fd(&attacker, &attacker.hello.ours, HELLO_FRAME_BYTES, 0);
		attacker_send_fd(&attacker, &attacker.hello.ours, HELLO_FRAME_BYTES, 0);
		attacker_expect_end(&attacker, scene->net);
		attacker_close(&attacker);
	}
	net_settle(scene->net);
	/* The last connection may still be on its way out; a hundred would be there if they were
	 * kept. */
	assert_true(descriptors_open() < before + 10);
}

/* ---- packets ---- */

static void send_packet(struct scene *scene, const struct shm_packet *packet, int fd)
{
	attacker_send_fd(&scene->attacker, packet, sizeof(*packet), fd);
}

static void a_packet_of_no_kind_is_a_crime(void **state)
{
	struct scene *scene = *state;
	struct shm_packet packet = {.magic = SHM_PACKET_MAGIC, .kind = 77};

	become_peer(scene);
	send_packet(scene, &packet, -1);
	expect_crime(scene);
}

static void a_packet_of_another_magic_is_a_crime(void **state)
{
	struct scene *scene = *state;
	struct shm_packet packet = {.magic = 1, .kind = SHM_PACKET_BELL};

	become_peer(scene);
	send_packet(scene, &packet, -1);
	expect_crime(scene);
}

static void a_torn_packet_is_a_crime(void **state)
{
	struct scene *scene = *state;
	struct shm_packet packet = {.magic = SHM_PACKET_MAGIC, .kind = SHM_PACKET_BELL};

	become_peer(scene);
	attacker_send(&scene->attacker, scene->net, &packet, sizeof(packet) - 1);
	expect_crime(scene);
}

static void an_oversized_packet_is_a_crime(void **state)
{
	struct scene *scene = *state;
	unsigned char bytes[sizeof(struct shm_packet) + 1] = {0};
	struct shm_packet packet = {.magic = SHM_PACKET_MAGIC, .kind = SHM_PACKET_BELL};

	become_peer(scene);
	memcpy(bytes, &packet, sizeof(packet));
	attacker_send(&scene->attacker, scene->net, bytes, sizeof(bytes));
	expect_crime(scene);
}

static void expect_export_refused(struct scene *scene, const struct shm_packet *packet, int fd)
{
	become_peer(scene);
	send_packet(scene, packet, fd);
	expect_crime(scene);
	if (fd >= 0)
		close(fd);
}

static struct shm_packet export_packet(void)
{
	return (struct shm_packet){
		.magic = SHM_PACKET_MAGIC,
		.kind = SHM_PACKET_EXPORT,
		.generation = 1,
		.key = 5,
		.epoch = 1,
		.size_bytes = 65536,
	};
}

static void an_export_of_nothing_is_a_crime(void **state)
{
	struct shm_packet packet = export_packet();

	expect_export_refused(*state, &packet, -1);
}

static void an_export_larger_than_its_memory_is_a_crime(void **state)
{
	struct shm_packet packet = export_packet();

	packet.size_bytes++;
	expect_export_refused(*state, &packet, make_memfd(65536, ALL_SEALS));
}

static void an_export_that_can_shrink_is_a_crime(void **state)
{
	struct shm_packet packet = export_packet();

	expect_export_refused(*state, &packet, make_memfd(65536, F_SEAL_GROW));
}

static void an_export_in_a_slot_that_is_none_is_a_crime(void **state)
{
	struct shm_packet packet = export_packet();

	packet.slot = SHM_EXPORTS_MAX;
	expect_export_refused(*state, &packet, make_memfd(65536, ALL_SEALS));
}

static void two_exports_under_one_key_are_a_crime(void **state)
{
	struct scene *scene = *state;
	struct shm_packet packet = export_packet();
	_Atomic uint32_t *fences =
		(_Atomic uint32_t *)(void *)(scene->session + (size_t)2 * RING_BYTES);
	int fd = make_memfd(65536, ALL_SEALS);

	become_peer(scene);
	atomic_store(&fences[0], 1);
	atomic_store(&fences[1], 1);
	send_packet(scene, &packet, fd);
	packet.slot = 1;
	send_packet(scene, &packet, fd);
	expect_crime(scene);
	close(fd);
}

/* An honest export by hand; then its fence falls without any packet. */
static void a_fallen_fence_is_seen_at_the_next_operation(void **state)
{
	struct scene *scene = *state;
	struct shm_packet packet = export_packet();
	_Atomic uint32_t *fences =
		(_Atomic uint32_t *)(void *)(scene->session + (size_t)2 * RING_BYTES);
	int fd = make_memfd(65536, ALL_SEALS);
	struct fabric_window *window;
	uint64_t previous;

	become_peer(scene);
	atomic_store(&fences[0], 1);
	send_packet(scene, &packet, fd);
	assert_int_equal(fabric_import(scene->at_server, 5, 1, 65536, &window), 0);
	assert_int_equal(net_add_to(scene->net, scene->server, window, 8, 1, &previous), 0);
	atomic_store(&fences[0], 2);
	assert_int_equal(net_add_to(scene->net, scene->server, window, 8, 1, &previous),
			 AFAR_EFENCED);
	close(fd);
}

/* ---- messages ---- */

static void a_message_longer_than_allowed_is_a_crime(void **state)
{
	static const unsigned char message[FABRIC_MESSAGE_BYTES_MAX + 1];
	struct scene *scene = *state;

	become_peer(scene);
	assert_int_equal(ring_put(&scene->tx, message, sizeof(message)), 0);
	ring_publish(&scene->tx);
	expect_crime(scene);
}

static void a_ring_that_lies_is_a_crime(void **state)
{
	struct scene *scene = *state;
	struct ring_memory *ring = (struct ring_memory *)(void *)scene->session;

	become_peer(scene);
	atomic_store(&ring->side[RING_PRODUCER].cursor, 1u << 20);
	expect_crime(scene);
}

static void a_ring_that_lies_to_its_writer_is_a_crime(void **state)
{
	static const unsigned char message[FABRIC_MESSAGE_BYTES_MAX];
	struct scene *scene = *state;
	struct ring_memory *ring =
		(struct ring_memory *)(void *)(scene->session + (size_t)RING_BYTES);
	int err = 0;

	become_peer(scene);
	atomic_store(&ring->side[RING_CONSUMER].cursor, 1u << 20);
	for (unsigned i = 0; i < 10 && !err; i++)
		err = fabric_send(scene->at_server, message, sizeof(message));
	assert_int_equal(err, AFAR_EPEER_DOWN);
	expect_crime(scene);
}

static void bells_without_end_keep_nobody_from_working(void **state)
{
	struct scene *scene = *state;
	struct shm_packet bell = {.magic = SHM_PACKET_MAGIC, .kind = SHM_PACKET_BELL};
	unsigned char buf[8];

	become_peer(scene);
	for (unsigned i = 0; i < 2000; i++) {
		send(scene->attacker.fd, &bell, sizeof(bell), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (i % 100 == 0)
			assert_int_equal(net_read(scene->net, scene->client, scene->window, 0, buf,
						  sizeof(buf)),
					 0);
	}
	assert_false(net_has_event(scene->server));
}

#define CASE(test) cmocka_unit_test_setup_teardown(test, scene_open, scene_close)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(no_session_is_refused),
		CASE(a_session_that_can_shrink_is_refused),
		CASE(a_session_that_is_no_memory_is_refused),
		CASE(a_session_of_no_size_is_refused),
		CASE(a_session_without_rings_is_refused),
		CASE(a_session_of_immense_size_is_refused),
		CASE(a_session_whose_rings_hold_no_message_is_refused),
		CASE(descriptors_do_not_pile_up),
		CASE(a_packet_of_no_kind_is_a_crime),
		CASE(a_packet_of_another_magic_is_a_crime),
		CASE(a_torn_packet_is_a_crime),
		CASE(an_oversized_packet_is_a_crime),
		CASE(an_export_of_nothing_is_a_crime),
		CASE(an_export_larger_than_its_memory_is_a_crime),
		CASE(an_export_that_can_shrink_is_a_crime),
		CASE(an_export_in_a_slot_that_is_none_is_a_crime),
		CASE(two_exports_under_one_key_are_a_crime),
		CASE(a_fallen_fence_is_seen_at_the_next_operation),
		CASE(a_message_longer_than_allowed_is_a_crime),
		CASE(a_ring_that_lies_is_a_crime),
		CASE(a_ring_that_lies_to_its_writer_is_a_crime),
		CASE(bells_without_end_keep_nobody_from_working),
	};

	test_seed();
	return cmocka_run_group_tests(tests, NULL, NULL);
}
