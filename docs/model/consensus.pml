/* The rules R1 to R6 of the consensus, written a second time and checked by Spin: agreement at n = 4 with one Byzantine
 * validator, all interleavings of VIEWS views. docs/spec/model.md says how to run it, what it found, and how it
 * compares with the explorer over the production code. Each #ifdef of a long name plants a mistake.
 *
 * Abstractions, and why none hides a fork:
 *  - Messages are sets. What was signed is in the state for ever, and the adversary shows any part of it to anybody at
 *    any time: loss, delay, duplication, reordering and partitions are all the same as not showing it (yet).
 *  - The Byzantine validator has no state. Every vote of it exists, for everything: votes only add certificates.
 *  - Timers do not exist: a nullify vote that a timer triggers may come at any time.
 *  - A leader is honest (one block, its own vote first) or Byzantine (any blocks, each on any parent that certificates
 *    allow, shown to anybody). Of the honest leaders, view 1 has validator 0, for names do not matter.
 *  - Blocks of a view are 1, 2, 3 in the order in which an honest validator first votes for one. A block without honest
 *    votes gets no certificate, and three honest validators notarize three blocks at most.
 *  - Having seen finality only restricts what an honest validator signs (R3, R9), so nobody ever has.
 *  - View numbers end at VIEWS: nobody leaves the last view, which would only forbid to nullify it.
 */

#ifndef VIEWS
#define VIEWS 2
#endif

#define HONEST 3
#define BLOCKS 3
#define BYZANTINE 3
#define Q 3
#ifdef FAST_QUORUM_ONE_TOO_LOW
#define F_FINAL 3
#else
#define F_FINAL 4
#endif

#define at(v, i) ((v) * HONEST + (i))     /* the vote of validator i in view v = 1.. */
#define block(v, b) ((v) * (BLOCKS + 1) + (b)) /* block b = 1..3 of view v; genesis is block(0, 0) = 0 */
#define view_of(x) ((x) / (BLOCKS + 1))
#define has(set, b) (((set) >> (b)) & 1)

byte leader[VIEWS + 1];
byte view[HONEST] = 1;

/* own[v] of every honest validator. 0 is "nothing". */
byte notarized[(VIEWS + 1) * HONEST];
bit nullified[(VIEWS + 1) * HONEST];
byte report[(VIEWS + 1) * HONEST];
byte finalized[(VIEWS + 1) * HONEST];

byte blocks[VIEWS + 1];                     /* how many blocks of the view have been voted for */
byte parent[(VIEWS + 1) * (BLOCKS + 1)];

/* What can be proved about each view with the Byzantine votes: functions of the votes, kept to keep guards short. */
byte nc[VIEWS + 1];      /* notarized blocks, as a set of bits */
byte hc[VIEWS + 1];      /* blocks with a heavy notarization: weight F_FINAL */
byte fc[VIEWS + 1];      /* blocks with a finalization */
byte carried[VIEWS + 1]; /* blocks that some timeout certificate carries */
bit skips[VIEWS + 1];     /* whether some timeout certificate skips the view */
bit tc[VIEWS + 1];       /* whether there is a timeout certificate at all */

/* For use within one step, and 0 between steps. */
byte b, n, m, set, lie, total, c1, c2, c3, x, u, w, carries;

#define votes(votes_of, v, b) ((votes_of[at(v, 0)] == b) + (votes_of[at(v, 1)] == b) + (votes_of[at(v, 2)] == b))
#define reports(v, i, b) (has(set, i) && report[at(v, i)] == b)
#define is_subset(v) ((!has(set, 0) || nullified[at(v, 0)]) && (!has(set, 1) || nullified[at(v, 1)]) && \
                      (!has(set, 2) || nullified[at(v, 2)]))

/* Every timeout certificate of view v: any set of honest nullify votes; lie = 0: without the Byzantine one, 1: which
 * reports nothing, 1 + b: which reports b. It carries what strictly more than half of its own weight reports. */
inline learn_timeouts(v) {
    carried[v] = 0;
    skips[v] = 0;
    tc[v] = 0;
    set = 1;
    do
    :: set < 8 ->
        lie = 0;
        do
        :: is_subset(v) && lie <= 1 + BLOCKS ->
            c1 = reports(v, 0, 1) + reports(v, 1, 1) + reports(v, 2, 1) + (lie == 2);
            c2 = reports(v, 0, 2) + reports(v, 1, 2) + reports(v, 2, 2) + (lie == 3);
            c3 = reports(v, 0, 3) + reports(v, 1, 3) + reports(v, 2, 3) + (lie == 4);
            total = has(set, 0) + has(set, 1) + has(set, 2) + (lie > 0);
            if
            :: total >= Q ->
                tc[v] = 1;
                carries = (2 * c1 > total -> 1 : (2 * c2 > total -> 2 : (2 * c3 > total -> 3 : 0)));
#ifdef TIMEOUT_ALWAYS_SKIPS
                carries = 0;
#endif
                if
                :: carries == 0 -> skips[v] = 1
                :: else -> carried[v] = carried[v] | (1 << carries)
                fi
            :: else
            fi;
            lie++
        :: else -> break
        od;
        set++
    :: else -> break
    od
}

inline learn_quorums(v) {
    nc[v] = 0;
    hc[v] = 0;
    fc[v] = 0;
    b = 1;
    do
    :: b <= BLOCKS ->
        n = votes(notarized, v, b) + 1;
        m = votes(finalized, v, b) + 1;
        nc[v] = nc[v] | ((n >= Q) << b);
        hc[v] = hc[v] | ((n >= F_FINAL) << b);
        fc[v] = fc[v] | ((m >= Q) << b);
        b++
    :: else -> break
    od
}

/* R6 and agreement: any two final blocks are on one chain. */
inline check_agreement() {
    w = 1;
    do
    :: w <= VIEWS ->
        b = 1;
        do
        :: b <= BLOCKS ->
            if
            :: has(hc[w] | fc[w], b) ->
                x = block(w, b);
                u = w;
                do /* downwards from the final block: no final block of a view that we pass is off our way */
                :: u > 0 ->
                    if
                    :: view_of(x) > u -> x = parent[x]
                    :: else
                    fi;
                    n = (hc[u] | fc[u]) & ~(view_of(x) == u -> 1 << (x % (BLOCKS + 1)) : 0);
                    if
                    :: n != 0 -> printf("=> FORK: block %d.%d is final, and so is one of view %d\n", w, b, u)
                    :: else
                    fi;
                    assert(n == 0);
                    u--
                :: else -> break
                od
            :: else
            fi;
            b++
        :: else -> break
        od;
        w++
    :: else -> break
    od
}

/* The claims of the safety argument about one view. */
inline check_claims(v) {
#ifdef FORKS_ONLY
    skip
#else
    assert((nc[v] & (nc[v] - 1)) == 0);                   /* one notarization at most */
    assert(fc[v] == 0 || !tc[v]);                         /* a finalization excludes timeout certificates */
    assert(hc[v] == 0 || (!skips[v] && (carried[v] & ~hc[v]) == 0)) /* which all carry a heavily notarized block */
#endif
}

inline voted(v) {
    learn_quorums(v);
    learn_timeouts(v);
    check_claims(v);
    check_agreement();
    b = 0; n = 0; m = 0; set = 0; lie = 0; total = 0; c1 = 0; c2 = 0; c3 = 0; x = 0; u = 0; w = 0; carries = 0
}

#ifdef NOTARIZE_AFTER_NULLIFY
#define R3_VOTES(v, i, b) (notarized[at(v, i)] == 0 && (finalized[at(v, i)] == 0 || finalized[at(v, i)] == b))
#else
#define R3_VOTES(v, i, b) (notarized[at(v, i)] == 0 && !nullified[at(v, i)] && \
                           (finalized[at(v, i)] == 0 || finalized[at(v, i)] == b))
#endif
#ifdef NULLIFY_AFTER_FINALIZE
#define R4_VOTES(v, i) (!nullified[at(v, i)])
#else
#define R4_VOTES(v, i) (!nullified[at(v, i)] && finalized[at(v, i)] == 0)
#endif
#ifdef FINALIZE_AFTER_NULLIFY
#define R5_VOTES(v, i, b) (finalized[at(v, i)] == 0 && (notarized[at(v, i)] == 0 || notarized[at(v, i)] == b))
#else
#define R5_VOTES(v, i, b) (!nullified[at(v, i)] && finalized[at(v, i)] == 0 && \
                           (notarized[at(v, i)] == 0 || notarized[at(v, i)] == b))
#endif

/* A block of view v may stand on block pb of view pv, in words: the parent has a parent certificate, and every view
 * between is skipped. A later view sees the same certificates and more, so once true is always true. */
#ifdef PARENT_UNCHECKED
#define certified(pv, pb) true
#else
#define certified(pv, pb) (pv == 0 || has(nc[pv] | fc[pv] | carried[pv], pb))
#endif
#ifdef SKIPS_UNCHECKED
#define gap_skipped(pv, v) true
#elif VIEWS == 2
#define gap_skipped(pv, v) (pv + 1 >= v || skips[pv + 1])
#else
#define gap_skipped(pv, v) ((pv + 1 >= v || skips[pv + 1]) && (pv + 2 >= v || skips[pv + 2]))
#endif

/* Who may bring a new block: a Byzantine leader any number, an honest one its single one. */
#define is_new(v, i) (blocks[v] < BLOCKS && (leader[v] == BYZANTINE || (leader[v] == i && blocks[v] == 0)))

#define NOTARIZE_NEW(v, pv, pb) \
    :: d_step { view[i] >= v && is_new(v, i) && R3_VOTES(v, i, blocks[v] + 1) && \
                certified(pv, pb) && gap_skipped(pv, v) -> \
        blocks[v]++; \
        parent[block(v, blocks[v])] = block(pv, pb); \
        notarized[at(v, i)] = blocks[v]; \
        printf("view %d: validator %d notarizes the new block %d.%d on %d.%d\n", v, i, v, blocks[v], pv, pb); \
        voted(v) }
#define NOTARIZE(v, b_) \
    :: d_step { view[i] >= v && b_ <= blocks[v] && R3_VOTES(v, i, b_) -> \
        notarized[at(v, i)] = b_; \
        printf("view %d: validator %d notarizes %d.%d\n", v, i, v, b_); \
        voted(v) }
#define FINALIZE(v, b_) \
    :: d_step { has(nc[v], b_) && R5_VOTES(v, i, b_) -> \
        finalized[at(v, i)] = b_; \
        printf("view %d: validator %d finalizes %d.%d\n", v, i, v, b_); \
        voted(v) }
#ifdef REPORT_DROPPED
#define REPORT(v, i) 0
#else
#define REPORT(v, i) notarized[at(v, i)]
#endif
#define NULLIFY(v) \
    :: d_step { view[i] == v && R4_VOTES(v, i) -> \
        nullified[at(v, i)] = 1; \
        report[at(v, i)] = REPORT(v, i); \
        printf("view %d: validator %d nullifies and reports %d.%d\n", v, i, v, report[at(v, i)]); \
        voted(v) }
/* R1: a certificate of view v admits everybody who is in v or below to v + 1. */
#define ENTER(v) \
    :: d_step { view[i] <= v && v < VIEWS && (nc[v] != 0 || fc[v] != 0 || tc[v]) -> \
        view[i] = v + 1; \
        printf("view %d: validator %d enters\n", v + 1, i) }
#define VOTES(v) \
    NOTARIZE(v, 1) NOTARIZE(v, 2) NOTARIZE(v, 3) \
    NULLIFY(v) \
    FINALIZE(v, 1) FINALIZE(v, 2) FINALIZE(v, 3) \
    ENTER(v) \
    NOTARIZE_NEW(v, 0, 0)
#define ON(v, pv) NOTARIZE_NEW(v, pv, 1) NOTARIZE_NEW(v, pv, 2) NOTARIZE_NEW(v, pv, 3)

proctype validator(byte i) {
end:
    do
    VOTES(1)
#if VIEWS >= 2
    VOTES(2) ON(2, 1)
#endif
#if VIEWS >= 3
    VOTES(3) ON(3, 1) ON(3, 2)
#endif
    od
}

init {
    atomic {
        if
        :: leader[1] = BYZANTINE
        :: leader[1] = 0
        fi;
#if VIEWS >= 2
        if
        :: leader[2] = BYZANTINE
        :: leader[2] = 0
        :: leader[2] = 1
        fi;
#endif
#if VIEWS >= 3
        if
        :: leader[3] = BYZANTINE
        :: leader[3] = 0
        :: leader[3] = 1
        :: leader[3] = 2
        fi;
#endif
        run validator(0);
        run validator(1);
        run validator(2)
    }
}
