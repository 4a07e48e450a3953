/* static.c: a statically linked program, which `afar run` has to refuse */
int main(void)
{
	return 0;
}
