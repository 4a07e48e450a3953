#include "afar/error.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define TEXT_BYTES 64

const char *afar_strerror(int error)
{
	static _Thread_local char text[TEXT_BYTES];
	const char *known;

	switch (error) {
	case 0:
		return "success";
	case AFAR_ENOSPACE_FAR:
		return "no node has room for another slab";
	case AFAR_EPEER_DOWN:
		return "the peer died, left or fell silent";
	case AFAR_EFENCED:
		return "the slab has another owner or another epoch by now";
	case AFAR_ELOST:
		return "the last copy of the data is gone";
	case AFAR_ECHECKSUM:
		return "the bytes that came back are not those that were written";
	case AFAR_EAUTH:
		return "the peer does not hold the key";
	case AFAR_EVERSION:
		return "the peer or the file speaks another version";
	case AFAR_EOWNED:
		return "another process owns the volume, and lives";
	case AFAR_ELEASE:
		return "the lease ran out";
	case AFAR_ECONFLICT:
		return "the record changed since it was read";
	case AFAR_EQUOTA:
		return "the owner holds as much as the node grants one owner";
	default:
		break;
	}
	/* strerrordesc_np, unlike strerror, keeps no state and knows no locale. */
	known = error < 0 && error > -2000 ? strerrordesc_np(-error) : NULL;
	if (known)
		return known;
	(void)snprintf(text, sizeof(text), "unknown error %d", error);
	return text;
}
