/*
 * afar/error.h: how every call of afar says that it failed
 *
 *   A function that can fail returns 0 (or a count) or a negative number: a negative errno where
 *   the C library has a word for what happened, one of the codes below where it has none. No call
 *   reports through errno itself: compilers keep its address across a switch of fibers.
 */
#ifndef AFAR_ERROR_H
#define AFAR_ERROR_H

/* Codes of our own lie beside errno's, from -2000 to -2099. */
enum afar_error {
	AFAR_ENOSPACE_FAR = -2000, /* no node has room for another slab */
	AFAR_EPEER_DOWN = -2001, /* the peer died, left or fell silent; the operation may be done */
	AFAR_EFENCED = -2002,    /* the slab has another owner or another epoch by now */
	AFAR_ELOST = -2003,      /* the last copy of the data is gone */
	AFAR_ECHECKSUM = -2004,  /* the bytes that came back are not those that were written */
	AFAR_EAUTH = -2005,      /* the peer does not hold the key */
	AFAR_EVERSION = -2006,   /* the peer or the file speaks another version */
	AFAR_EOWNED = -2007,     /* another process owns the volume, and lives */
	AFAR_ELEASE = -2008,     /* our lease ran out: somebody else may own what we did */
	AFAR_ECONFLICT = -2009,  /* the record changed since it was read: read again, try again */
	AFAR_EQUOTA = -2010,     /* the owner holds as much as the node grants one owner */
};

/*
 * A sentence for a code of either kind, without a full stop. Never NULL; static or thread-local
 * memory that stays valid until the thread's next call.
 */
const char *afar_strerror(int error);

#endif
