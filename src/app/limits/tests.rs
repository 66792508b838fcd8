//! Buckets under floods, and in time.

use std::net::{IpAddr, Ipv6Addr};

use crate::clock::ManualClock;
use crate::domain::time::Timestamp;

use super::*;

const SIGN_UPS: RateLimits = RateLimits {
    signup_hour: 5,
    signup_day: 20,
    ..RateLimits::OFF
};

fn clock() -> ManualClock {
    ManualClock::new(Timestamp::from_micros(1_767_225_600_000_000))
}

fn limits(limits: RateLimits, clock: &ManualClock, room: Room) -> Limits {
    Limits::with_room(&limits, vec![7, 2, 7], &Clock::Manual(clock.clone()), room)
}

/// The `n`th /64 of all.
fn network(n: u64) -> Origin {
    let address = Ipv6Addr::from((u128::from(0x2000_0000_0000_0000 + n) << 64) | 1);
    Origin::from(IpAddr::from(address))
}

fn exceeded(result: Result<(), Failure>) -> Exceeded {
    match result {
        Err(Failure::RateLimited(exceeded)) => exceeded,
        other => panic!("{other:?}"),
    }
}

/// Bytes that this process holds in memory.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: u64 = status.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4_096
}

#[test]
#[expect(clippy::print_stdout, reason = "what it takes is worth telling")]
fn a_million_networks_take_bounded_room_and_shut_nobody_out() {
    // Shows that a million /64s make no more buckets than there is room for, that next to all of them and a
    // fresh honest address still get through, that one that floods does not, and that it is over when the
    // buckets are full again.
    let clock = clock();
    let limits = limits(SIGN_UPS, &clock, Room::DEFAULT);
    // What it takes is asserted by what is counted: other tests fill this process's memory meanwhile.
    let before = resident();
    let flooding = network(u64::from(u32::MAX));
    let mut admitted = 0;
    for n in 0..1_000_000 {
        admitted += u32::from(limits.take_sign_up(network(n)).is_ok());
    }
    let grown = resident().saturating_sub(before);
    let hour = limits.signup_hour.as_ref().unwrap();
    let day = limits.signup_day.as_ref().unwrap();
    assert_eq!(hour.buckets.counts(), (65_536, 1_048_576));
    assert_eq!(day.buckets.counts(), (65_536, 1_048_576));
    println!(
        "{admitted} of 1000000 admitted, {} KiB more in memory",
        grown / 1_024
    );
    for limit in [hour, day] {
        let bytes = limit.buckets.bytes();
        assert!(bytes < 16 << 20, "{bytes} bytes");
    }
    assert!(admitted > 995_000, "{admitted}");
    // Nobody is known to be honest, so what holds for one holds for any that comes later.
    let later = 2_000_000..2_001_000;
    let honest = later.filter(|n| limits.take_sign_up(network(*n)).is_ok());
    assert!(honest.count() >= 990);
    // Who has no bucket of its own is limited all the same.
    let passed = (0..100).filter(|_| limits.take_sign_up(flooding).is_ok());
    assert!(passed.count() <= 5);
    // In three hours all buckets are full again: there is room for new keys.
    clock.advance(3 * 3_600);
    limits.sweep();
    assert_eq!(hour.buckets.counts().0, 0);
    assert_eq!(day.buckets.counts().0, 0);
}

#[test]
fn full_buckets_make_room_for_new_keys_without_a_sweep_from_outside() {
    // Shows that a limit with no room left looks for buckets that are full again, by itself.
    let (clock, room) = (clock(), Room { own: 10, shared: 1 });
    let limits = limits(SIGN_UPS, &clock, room);
    for n in 0..10 {
        limits.take_sign_up(network(n)).unwrap();
    }
    // The eleventh and those after it share one bucket of five.
    let shared = (10..20).filter(|n| limits.take_sign_up(network(*n)).is_ok());
    assert_eq!(shared.count(), 5);
    // Those that have their own are not touched by it.
    for n in 0..10 {
        limits.take_sign_up(network(n)).unwrap();
    }
    clock.advance(5 * 3_600);
    for n in 30..40 {
        for _ in 0..5 {
            limits.take_sign_up(network(n)).unwrap();
        }
        assert_eq!(
            exceeded(limits.take_sign_up(network(n))).rule,
            Rule::SignupHour
        );
    }
}

#[test]
fn five_an_hour_and_twenty_a_day() {
    // Shows the numbers to the second: what is in a bucket, when the next comes, which limit says so.
    let clock = clock();
    let limits = limits(SIGN_UPS, &clock, Room::DEFAULT);
    let (own, other) = (network(1), network(2));
    let hour = |wait_seconds| Exceeded {
        rule: Rule::SignupHour,
        quota: 5,
        wait_seconds,
    };
    for _ in 0..5 {
        limits.take_sign_up(own).unwrap();
    }
    assert_eq!(exceeded(limits.take_sign_up(own)), hour(720));
    limits.take_sign_up(other).unwrap();
    clock.advance(719);
    assert_eq!(exceeded(limits.take_sign_up(own)), hour(1));
    clock.advance(1);
    limits.take_sign_up(own).unwrap();
    assert_eq!(exceeded(limits.take_sign_up(own)), hour(720));
    // Every twelve minutes another, until the day's twenty are gone: 20 and what came back meanwhile.
    let mut made = 6;
    let day = loop {
        clock.advance(720);
        match limits.take_sign_up(own) {
            Ok(()) => made += 1,
            Err(failure) => break exceeded(Err(failure)),
        }
        assert!(made < 100);
    };
    assert_eq!((day.rule, day.quota), (Rule::SignupDay, 20));
    // Three came back in the first 12,960 s; the fourth comes at 17,280 s, and it is 13,680 s.
    assert_eq!(made, 23);
    assert_eq!(day.wait_seconds, 3_600);
    // What the day refused took nothing from the hour.
    for _ in 0..10 {
        assert_eq!(exceeded(limits.take_sign_up(own)).rule, Rule::SignupDay);
    }
    clock.advance(3_600);
    limits.take_sign_up(own).unwrap();
}

#[test]
fn what_all_addresses_may_is_refused_without_a_cost_to_the_address() {
    // Shows the cap of all together, and that a sign-up given back counts nowhere.
    let clock = clock();
    let all = RateLimits {
        signup_global: 3,
        ..SIGN_UPS
    };
    let limits = limits(all, &clock, Room::DEFAULT);
    for n in 0..3 {
        limits.take_sign_up(network(n)).unwrap();
    }
    for _ in 0..100 {
        let refused = exceeded(limits.take_sign_up(network(9)));
        assert_eq!(
            (refused.rule, refused.wait_seconds),
            (Rule::SignupGlobal, 1_200)
        );
    }
    limits.give_back_sign_up(network(0));
    limits.take_sign_up(network(9)).unwrap();
    clock.advance(4 * 3_600);
    for _ in 0..100 {
        limits.take_sign_up(network(9)).unwrap();
        limits.give_back_sign_up(network(9));
    }
    // Nor does it make more than there was.
    for _ in 0..3 {
        limits.take_sign_up(network(9)).unwrap();
    }
    assert_eq!(
        exceeded(limits.take_sign_up(network(9))).rule,
        Rule::SignupGlobal
    );
}

#[test]
fn threads_take_no_more_than_there_is() {
    // Shows that a race over new keys gives each bucket's tokens once, and counts buckets right.
    let (clock, room) = (
        clock(),
        Room {
            own: 100,
            shared: 1,
        },
    );
    let all = RateLimits {
        signup_day: 0,
        ..SIGN_UPS
    };
    let limits = limits(all, &clock, room);
    let taken = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                for n in 0..100 {
                    for _ in 0..5 {
                        let is_taken = limits.take_sign_up(network(n)).is_ok();
                        taken.fetch_add(u64::from(is_taken), Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let (own, shared) = limits.signup_hour.as_ref().unwrap().buckets.counts();
    assert_eq!(own, 100);
    // While all room was reserved for a moment, a key may have met the shared bucket, with its five.
    let taken = taken.into_inner();
    assert!(taken == 500 || (shared == 1 && taken <= 505), "{taken}");
}

#[test]
fn the_log_is_told_once_a_minute() {
    // Shows that strikes between two lines are counted and not written.
    let clock = clock();
    let limits = limits(SIGN_UPS, &clock, Room::DEFAULT);
    let hour = limits.signup_hour.as_ref().unwrap();
    let strike = |times: usize| {
        for _ in 0..times {
            let _ = limits.take_sign_up(network(1));
        }
    };
    strike(5 + 10);
    // The first was told at once; nine wait for the next line.
    assert_eq!(hour.struck.load(Ordering::Relaxed), 9);
    clock.advance(59);
    strike(1);
    assert_eq!(hour.struck.load(Ordering::Relaxed), 10);
    clock.advance(1);
    strike(3);
    assert_eq!(hour.struck.load(Ordering::Relaxed), 2);
}

#[test]
fn a_plan_can_have_a_limit_of_its_own() {
    // Shows that a plan's own number is in the place of the server's, and that the server's 0 turns both off.
    let clock = clock();
    let (five, off) = (5, 0);
    let free_routes = |free_routes| {
        let all = RateLimits {
            free_routes,
            ..RateLimits::OFF
        };
        limits(all, &clock, Room::DEFAULT)
    };
    let passed = |limits: &Limits, account: u8, own: Option<u32>| {
        let account = AccountKey([account; 16]);
        let all = (0..20).map(|_| limits.take_free_route(account, || Ok(own)));
        all.flatten().count()
    };
    let on = free_routes(five);
    assert_eq!(passed(&on, 1, None), 5);
    assert_eq!(passed(&on, 2, Some(7)), 7);
    assert_eq!(passed(&on, 3, Some(7)), 7);
    assert_eq!(passed(&on, 4, Some(2)), 2);
    let refused = on.take_free_route(AccountKey([4; 16]), || Ok(Some(2)));
    let of_two = Exceeded {
        rule: Rule::FreeRoutes,
        quota: 2,
        wait_seconds: 30,
    };
    assert_eq!(exceeded(refused), of_two);
    let off = free_routes(off);
    assert_eq!(passed(&off, 1, None), 20);
    assert_eq!(passed(&off, 2, Some(2)), 20);
}

#[test]
fn what_is_zero_is_no_limit() {
    // Shows that a limit of 0 admits all, and makes no buckets.
    let off = limits(RateLimits::OFF, &clock(), Room::DEFAULT);
    for _ in 0..10_000 {
        off.take_sign_up(network(1)).unwrap();
        off.take_auth_failure(network(1)).unwrap();
    }
    assert!(off.signup_hour.is_none() && off.auth_failures.is_none());
}
