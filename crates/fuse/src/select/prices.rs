//! Prices of operations: a lower bound on the cost of covering what is left.
//!
//! Prices are feasible for the dual of the linear relaxation: those of a candidate's members
//! never add up to more than the candidate costs. So whatever covers a set of operations
//! costs at least the sum of their prices.

use crate::candidates::Candidate;

/// Steps of the subgradient method that looks for high prices.
const STEPS: usize = 300;

/// Feasible prices in whole nanoseconds.
pub fn prices(n: usize, candidates: &[Candidate], costs: &[i64]) -> Vec<i64> {
    let members: Vec<Vec<usize>> = candidates
        .iter()
        .map(|c| c.members.iter().collect())
        .collect();
    // A first guess: each candidate's cost shared by its members in proportion to what they
    // cost alone, and the least share of each.
    let mut alone = vec![f64::INFINITY; n];
    for (of, cost) in members.iter().zip(costs) {
        for i in of {
            alone[*i] = alone[*i].min(*cost as f64 / of.len() as f64);
        }
    }
    let mut price = alone;
    repair(&mut price, &members, costs);
    raise(&mut price, &members, costs);
    let mut best = price.clone();
    let mut best_total: f64 = best.iter().sum();
    let upper = greedy_cover(n, &members, costs);
    let mut patience = 1.0;
    for step in 0..STEPS {
        // Subgradient of the Lagrangian: how often an operation is covered by candidates that
        // cost less than their members' prices.
        let mut gradient = vec![1.0; n];
        let mut value: f64 = price.iter().sum();
        for (of, cost) in members.iter().zip(costs) {
            let reduced = *cost as f64 - of.iter().map(|i| price[*i]).sum::<f64>();
            if reduced < 0.0 {
                value += reduced;
                for i in of {
                    gradient[*i] -= 1.0;
                }
            }
        }
        let square: f64 = gradient.iter().map(|g| g * g).sum();
        if square == 0.0 {
            break;
        }
        let length = patience * (upper - value).max(1.0) / square;
        for (p, g) in price.iter_mut().zip(&gradient) {
            *p = (*p + length * g).max(0.0);
        }
        if step % 10 == 9 {
            patience *= 0.9;
            let mut feasible = price.clone();
            repair(&mut feasible, &members, costs);
            raise(&mut feasible, &members, costs);
            let total: f64 = feasible.iter().sum();
            if total > best_total {
                best_total = total;
                best = feasible;
            }
        }
    }
    best.iter().map(|p| p.floor() as i64).collect()
}

/// Lowers prices until they are feasible.
fn repair(price: &mut [f64], members: &[Vec<usize>], costs: &[i64]) {
    for (of, cost) in members.iter().zip(costs) {
        let sum: f64 = of.iter().map(|i| price[*i]).sum();
        let cost = (*cost as f64).max(0.0);
        if sum > cost && sum > 0.0 {
            let scale = cost / sum;
            for i in of {
                price[*i] *= scale;
            }
        }
    }
}

/// Raises each price by the least slack of the candidates it is in.
fn raise(price: &mut [f64], members: &[Vec<usize>], costs: &[i64]) {
    let mut slack: Vec<f64> = members
        .iter()
        .zip(costs)
        .map(|(of, cost)| *cost as f64 - of.iter().map(|i| price[*i]).sum::<f64>())
        .collect();
    let mut of_op: Vec<Vec<usize>> = vec![vec![]; price.len()];
    for (c, of) in members.iter().enumerate() {
        for i in of {
            of_op[*i].push(c);
        }
    }
    for i in 0..price.len() {
        let room = of_op[i]
            .iter()
            .map(|c| slack[*c])
            .fold(f64::INFINITY, f64::min);
        if room.is_finite() && room > 0.0 {
            price[i] += room;
            for c in &of_op[i] {
                slack[*c] -= room;
            }
        }
    }
}

/// An upper bound on the optimum: every operation at its cheapest share.
fn greedy_cover(n: usize, members: &[Vec<usize>], costs: &[i64]) -> f64 {
    let mut single = vec![f64::INFINITY; n];
    for (of, cost) in members.iter().zip(costs) {
        if let [only] = of[..] {
            single[only] = single[only].min(*cost as f64);
        }
    }
    single.iter().filter(|c| c.is_finite()).sum()
}
