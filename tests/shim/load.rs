//! Many containers at once.

use harness::Release;

harness::with_each_containerd!(five_hundred_containers_lose_no_exit_code_and_leave_nothing);

fn five_hundred_containers_lose_no_exit_code_and_leave_nothing(release: &Release) {
    let containerd = release.start();
    let text = containerd
        .sh(r#"
one() {
    code=$(($1 % 200 + 1))
    out=$(command ctr --address $LAB/c.sock --namespace $LAB_NAME run $2 --rootfs --rm $LAB/rootfs $LAB_NAME-$1 /bin/sh -c "echo $1; exit $code" 2>&1)
    [ $? = $code ] && [ "$out" = $1 ] && echo good || echo "container $1: $out"
}
export -f one
seq 500 | xargs -P 20 -I @number@ bash -c 'one @number@ "'"$shim"'"' | sort | uniq -c
"#)
        .ok();
    assert_eq!(text.trim(), "500 good");
    containerd.assert_nothing_left();
}
