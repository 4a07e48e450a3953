/*
 * apart.h: stacks of our own for the calls that take the pager's lock
 *
 *   A program's stack may be managed memory: a fiber's, a signal stack from malloc, a thread's that
 *   was given to pthread_attr_setstack. While a thread holds the pager's lock the pager serves
 *   nobody, so a push onto a page that has been taken away would wait for ever. Therefore such
 *   calls run on one of a few stacks in this library's own data, which is never managed, with all
 *   signals blocked, and what they need from the program's memory is copied before.
 *
 *       thread 1 ── block signals ── take a stack ── copy arguments ── call ── give back ── unblock
 *       thread 2 ──       "       ──  another     ── …
 *
 *   When all stacks are taken a thread sleeps until one is free: the others are in calls that end
 *   by themselves. A fork may be made apart: the child goes on with its copy of the same stack.
 */
#ifndef AFAR_PRELOAD_APART_H
#define AFAR_PRELOAD_APART_H

#define APART_STACKS      32u
#define APART_STACK_BYTES 32768u

/* Calls function(copy of the arguments) apart and returns what it returned. */
long apart_call(long (*function)(const long argument[6]), const long argument[6]);
/* In the child of a fork that was made apart, still on that stack. */
void apart_after_fork(void);

#endif
