/*
 * list.h: a doubly linked list through links inside its members
 *
 *   A list is a ring of links with the head among them, so no operation has a special case and
 *   none allocates. A member is found from its link by container_of (base.h). A link that is in
 *   no list points to itself. One thread at a time.
 */
#ifndef AFAR_BASE_LIST_H
#define AFAR_BASE_LIST_H

#include <stdbool.h>
#include <stddef.h>

struct list {
	struct list *next;
	struct list *prev;
};

/* Makes an empty list, or a link in no list. */
static inline void list_init(struct list *list)
{
	list->next = list;
	list->prev = list;
}

static inline bool list_is_empty(const struct list *list)
{
	return list->next == list;
}

/* True if the link is in some list. */
static inline bool list_is_linked(const struct list *link)
{
	return link->next != link;
}

static inline void list_insert_between(struct list *link, struct list *prev, struct list *next)
{
	link->prev = prev;
	link->next = next;
	prev->next = link;
	next->prev = link;
}

/* The link must be in no list. */
static inline void list_push_first(struct list *list, struct list *link)
{
	list_insert_between(link, list, list->next);
}

static inline void list_push_last(struct list *list, struct list *link)
{
	list_insert_between(link, list->prev, list);
}

/* Takes the link out of its list; of a link in no list nothing changes. */
static inline void list_remove(struct list *link)
{
	link->prev->next = link->next;
	link->next->prev = link->prev;
	list_init(link);
}

/* Takes the first link out; NULL from an empty list. */
static inline struct list *list_pop_first(struct list *list)
{
	struct list *link = list->next;

	if (link == list)
		return NULL;
	list_remove(link);
	return link;
}

/* Visits every link of the list at `head`; the one at hand may be removed, no other. */
#define list_each(link, head)                                                             \
	for (struct list *link = (head)->next, *link##_next = link->next; link != (head); \
	     link = link##_next, link##_next = link->next)

#endif
