/* SPDX-License-Identifier: MIT */
/* Runs simulated worlds, one a seed. `--break` and `--forget-turns` break the world, so that the
 * checks must find something: the first is told that a queue is empty which is not, the second has
 * a handoffd that turns connections before it writes that down, and crashes. */
#include "world.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static uint64_t current_seed;

static void say_seed(const char *expression, const char *file, int line)
{
	printf("seed %" PRIu64 ", assertion: %s at %s:%d\n", current_seed, expression, file, line);
	fflush(stdout);
}

static int usage(void)
{
	fprintf(stderr,
	        "usage: handoff-sim [--steps N | --worlds N] [--seed N] [--trace] [--break] "
	        "[--forget-turns]\n");
	return 2;
}

int main(int argc, char **argv)
{
	uint64_t seed = 1, steps = 0, want_steps = 1000000, worlds = 0, n;
	uint64_t canaries = 0, deploys = 0, scaled = 0, crashes = 0, upgrades = 0;
	uint64_t generations = 0, rollbacks = 0, failures = 0, answers = 0, cut = 0;
	struct world_options options = {.max_steps = 4000};

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--trace"))
			options.trace = stderr;
		else if (!strcmp(argv[i], "--break"))
			options.break_it = true;
		else if (!strcmp(argv[i], "--forget-turns"))
			options.forget_turns = true;
		else if (i + 1 < argc && parse_number(argv[i + 1], UINT64_MAX, &n)) {
			if (!strcmp(argv[i], "--steps"))
				want_steps = n;
			else if (!strcmp(argv[i], "--worlds"))
				worlds = n;
			else if (!strcmp(argv[i], "--seed"))
				seed = n;
			else
				return usage();
			i++;
		} else
			return usage();
	}
	ho_assert_hook = say_seed;
	for (n = 0; worlds ? n < worlds : steps < want_steps; n++, seed++) {
		struct world_result r;

		current_seed = seed;
		r = world_live(chance_from_seed(seed), &options);
		steps += r.steps;
		generations += r.generations;
		rollbacks += r.rollbacks;
		canaries += r.canaries;
		deploys += r.deploys;
		scaled += r.scaled;
		crashes += r.crashes;
		upgrades += r.upgrades;
		failures += r.failures;
		answers += r.answers;
		cut += r.cut;
		if (r.error[0]) {
			printf("seed %" PRIu64
			       ", step %u: %s\nreplay: handoff-sim --worlds 1 --seed %" PRIu64
			       " --trace%s\n",
			        seed, r.steps, r.error, seed,
			        options.break_it       ? " --break"
			        : options.forget_turns ? " --forget-turns"
			                               : "");
			return 1;
		}
	}
	printf("%" PRIu64 " steps in %" PRIu64 " worlds (last seed %" PRIu64 "): %" PRIu64
	       " generations, %" PRIu64 " deployed, %" PRIu64 " canaries, %" PRIu64
	       " scaled, %" PRIu64 " failed, %" PRIu64 " rolled back, %" PRIu64
	       " requests answered, %" PRIu64 " connections cut at a deadline, %" PRIu64
	       " crashes, %" PRIu64 " upgrades; no invariant violated\n",
	        steps, n, seed - 1, generations, deploys, canaries, scaled, failures, rollbacks,
	        answers, cut, crashes, upgrades);
	return 0;
}
