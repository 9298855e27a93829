//! A layered layout: ranks from top to bottom, few crossings, short edges.

/// Sweeps that reorder the ranks, and sweeps that place them.
const SWEEPS: usize = 12;

/// A thing with a size.
#[derive(Clone, Copy)]
pub struct Item {
    pub width: f64,
    pub height: f64,
}

/// Distances between neighbours.
#[derive(Clone, Copy)]
pub struct Gaps {
    /// In a rank.
    pub across: f64,
    /// Between ranks.
    pub down: f64,
    /// Width kept free for an edge that passes a rank.
    pub edge: f64,
}

/// Where everything is.
pub struct Layout {
    /// Left and top of each item.
    pub at: Vec<(f64, f64)>,
    /// For each edge, the places of the ranks it passes between its ends: the middle, and the
    /// top and the bottom of the rank.
    pub via: Vec<Vec<(f64, f64, f64)>>,
    pub width: f64,
    pub height: f64,
}

/// A place in a rank: an item, or an edge that passes.
struct Node {
    rank: usize,
    width: f64,
    up: Vec<usize>,
    down: Vec<usize>,
    x: f64,
}

/// Lays out items with edges from lower to higher indices.
pub fn layered(items: &[Item], edges: &[(usize, usize)], gaps: Gaps) -> Layout {
    let ranks = ranks(items.len(), edges);
    let mut nodes: Vec<Node> = items
        .iter()
        .zip(&ranks)
        .map(|(item, rank)| Node {
            rank: *rank,
            width: item.width,
            up: vec![],
            down: vec![],
            x: 0.0,
        })
        .collect();
    let mut passes: Vec<Vec<usize>> = Vec::new();
    for (from, to) in edges {
        let mut last = *from;
        let mut chain = Vec::new();
        for rank in ranks[*from] + 1..ranks[*to] {
            nodes.push(Node {
                rank,
                width: gaps.edge,
                up: vec![],
                down: vec![],
                x: 0.0,
            });
            let next = nodes.len() - 1;
            join(&mut nodes, last, next);
            chain.push(next);
            last = next;
        }
        join(&mut nodes, last, *to);
        passes.push(chain);
    }
    let count = nodes.iter().map(|n| n.rank + 1).max().unwrap_or(0);
    let mut rows: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (i, node) in nodes.iter().enumerate() {
        rows[node.rank].push(i);
    }
    order(&nodes, &mut rows);
    place(&mut nodes, &rows, gaps.across);

    let left = nodes
        .iter()
        .map(|n| n.x - n.width / 2.0)
        .fold(f64::INFINITY, f64::min);
    let right = nodes
        .iter()
        .map(|n| n.x + n.width / 2.0)
        .fold(f64::NEG_INFINITY, f64::max);
    let mut tops = Vec::with_capacity(count);
    let mut heights = Vec::with_capacity(count);
    let mut y = 0.0;
    for row in &rows {
        let height = row
            .iter()
            .filter_map(|i| items.get(*i))
            .map(|item| item.height)
            .fold(0.0, f64::max);
        tops.push(y);
        heights.push(height);
        y += height + gaps.down;
    }
    let at = items
        .iter()
        .enumerate()
        .map(|(i, item)| {
            let node = &nodes[i];
            let spare = heights[node.rank] - item.height;
            (
                node.x - item.width / 2.0 - left,
                tops[node.rank] + spare / 2.0,
            )
        })
        .collect();
    let via = passes
        .iter()
        .map(|chain| {
            let place = |i: &usize| {
                let rank = nodes[*i].rank;
                (nodes[*i].x - left, tops[rank], tops[rank] + heights[rank])
            };
            chain.iter().map(place).collect()
        })
        .collect();
    Layout {
        at,
        via,
        width: (right - left).max(0.0),
        height: (y - gaps.down).max(0.0),
    }
}

fn join(nodes: &mut [Node], from: usize, to: usize) {
    nodes[from].down.push(to);
    nodes[to].up.push(from);
}

/// Longest paths from above; then everything goes as far down as what reads it allows.
fn ranks(n: usize, edges: &[(usize, usize)]) -> Vec<usize> {
    let mut ranks = vec![0usize; n];
    let mut sorted = edges.to_vec();
    sorted.sort_unstable();
    for (from, to) in &sorted {
        ranks[*to] = ranks[*to].max(ranks[*from] + 1);
    }
    for i in (0..n).rev() {
        let below = sorted.iter().filter(|e| e.0 == i).map(|e| ranks[e.1]).min();
        if let Some(below) = below {
            ranks[i] = ranks[i].max(below.saturating_sub(1));
        }
    }
    ranks
}

/// Sorts the ranks by the average position of neighbours, down and up in turn; keeps the order
/// with the fewest crossings.
fn order(nodes: &[Node], rows: &mut Vec<Vec<usize>>) {
    let mut best = (crossings(nodes, rows), rows.clone());
    for sweep in 0..SWEEPS {
        let down = sweep % 2 == 0;
        let sequence: Vec<usize> = match down {
            true => (1..rows.len()).collect(),
            false => (0..rows.len().saturating_sub(1)).rev().collect(),
        };
        for r in sequence {
            let place = places(nodes.len(), rows);
            let mean = |i: usize| {
                let by = if down { &nodes[i].up } else { &nodes[i].down };
                match by.len() {
                    0 => place[i],
                    n => by.iter().map(|j| place[*j]).sum::<f64>() / n as f64,
                }
            };
            let mut keyed: Vec<(f64, usize)> = rows[r].iter().map(|i| (mean(*i), *i)).collect();
            keyed.sort_by(|a, b| a.0.total_cmp(&b.0));
            rows[r] = keyed.into_iter().map(|(_, i)| i).collect();
        }
        let now = crossings(nodes, rows);
        if now < best.0 {
            best = (now, rows.clone());
        }
    }
    *rows = best.1;
}

/// Position of each node in its rank, from 0 to 1.
fn places(n: usize, rows: &[Vec<usize>]) -> Vec<f64> {
    let mut place = vec![0.0; n];
    for row in rows {
        for (p, i) in row.iter().enumerate() {
            place[*i] = (p as f64 + 0.5) / row.len() as f64;
        }
    }
    place
}

fn crossings(nodes: &[Node], rows: &[Vec<usize>]) -> usize {
    let place = places(nodes.len(), rows);
    let mut n = 0;
    for row in rows {
        let edges: Vec<(f64, f64)> = row
            .iter()
            .flat_map(|i| nodes[*i].down.iter().map(|j| (place[*i], place[*j])))
            .collect();
        for (k, a) in edges.iter().enumerate() {
            let crosses = |b: &&(f64, f64)| (a.0 - b.0) * (a.1 - b.1) < 0.0;
            n += edges[k + 1..].iter().filter(crosses).count();
        }
    }
    n
}

/// Moves everything towards its neighbours, in the order of its rank and with gaps between.
fn place(nodes: &mut [Node], rows: &[Vec<usize>], gap: f64) {
    for row in rows {
        let total: f64 = row.iter().map(|i| nodes[*i].width + gap).sum();
        let mut x = -total / 2.0;
        for i in row {
            nodes[*i].x = x + nodes[*i].width / 2.0;
            x += nodes[*i].width + gap;
        }
    }
    for sweep in 0..2 * SWEEPS {
        let sequence: Vec<usize> = match sweep % 2 {
            0 => (0..rows.len()).collect(),
            _ => (0..rows.len()).rev().collect(),
        };
        for r in sequence {
            let wish = |i: usize| {
                let of: Vec<usize> = [&nodes[i].up[..], &nodes[i].down[..]].concat();
                match of.len() {
                    0 => nodes[i].x,
                    n => of.iter().map(|j| nodes[*j].x).sum::<f64>() / n as f64,
                }
            };
            let wishes: Vec<f64> = rows[r].iter().map(|i| wish(*i)).collect();
            let widths: Vec<f64> = rows[r].iter().map(|i| nodes[*i].width).collect();
            for (i, x) in rows[r].iter().zip(spaced(&wishes, &widths, gap)) {
                nodes[*i].x = x;
            }
        }
    }
}

/// The places nearest to the wishes (least squares) that keep order and gaps: neighbours that
/// are too close become a cluster at the mean of its members' wishes.
fn spaced(wishes: &[f64], widths: &[f64], gap: f64) -> Vec<f64> {
    let mut offsets = vec![0.0; wishes.len()];
    for i in 1..wishes.len() {
        offsets[i] = offsets[i - 1] + (widths[i - 1] + widths[i]) / 2.0 + gap;
    }
    // Sum of wishes less offsets, and number of members.
    let mut clusters: Vec<(f64, usize)> = Vec::new();
    for (wish, offset) in wishes.iter().zip(&offsets) {
        let mut cluster = (wish - offset, 1);
        while let Some(last) = clusters.last()
            && last.0 / last.1 as f64 > cluster.0 / cluster.1 as f64
        {
            cluster = (cluster.0 + last.0, cluster.1 + last.1);
            clusters.pop();
        }
        clusters.push(cluster);
    }
    let of = clusters
        .iter()
        .flat_map(|(sum, n)| std::iter::repeat_n(sum / *n as f64, *n));
    of.zip(&offsets).map(|(x, offset)| x + offset).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_keep_their_gaps_and_move_no_more_than_they_must() {
        let cases: [(&[f64], &[f64]); 4] = [
            (&[], &[]),
            (&[3.0], &[3.0]),
            (&[0.0, 100.0], &[0.0, 100.0]),
            (&[5.0, 5.0, 5.0], &[-7.0, 5.0, 17.0]),
        ];
        for (wishes, expected) in cases {
            let widths = vec![10.0; wishes.len()];
            assert_eq!(spaced(wishes, &widths, 2.0), expected);
        }
    }

    #[test]
    fn nothing_overlaps_and_edges_go_down() {
        let items: Vec<Item> = (0..9)
            .map(|i| Item {
                width: 20.0 + 10.0 * f64::from(i),
                height: 10.0,
            })
            .collect();
        let edges = [
            (0, 1),
            (0, 2),
            (0, 8),
            (1, 3),
            (2, 3),
            (2, 4),
            (4, 5),
            (3, 6),
            (5, 7),
        ];
        let gaps = Gaps {
            across: 5.0,
            down: 7.0,
            edge: 3.0,
        };
        let layout = layered(&items, &edges, gaps);
        for (i, a) in layout.at.iter().enumerate() {
            assert!(a.0 >= -1e-6 && a.0 + items[i].width <= layout.width + 1e-6);
            for (j, b) in layout.at.iter().enumerate().skip(i + 1) {
                let apart = a.1 != b.1
                    || a.0 + items[i].width + 5.0 <= b.0 + 1e-6
                    || b.0 + items[j].width + 5.0 <= a.0 + 1e-6;
                assert!(apart, "{i} {j}");
            }
        }
        for ((from, to), via) in edges.iter().zip(&layout.via) {
            let mut y = layout.at[*from].1 + 10.0;
            for (_, top, bottom) in via {
                assert!(*top > y);
                y = *bottom;
            }
            assert!(layout.at[*to].1 > y);
        }
    }
}
