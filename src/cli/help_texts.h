/*
 * help_texts.h: the manual pages inside the binary, made from docs/man by tools/embed-help
 */
#ifndef AFAR_CLI_HELP_TEXTS_H
#define AFAR_CLI_HELP_TEXTS_H

struct help_text {
	const char *topic;
	const char *text; /* as it stands in docs/man: made to be read as it is, too */
};

extern const struct help_text help_texts[];
extern const unsigned help_texts_count;

#endif
