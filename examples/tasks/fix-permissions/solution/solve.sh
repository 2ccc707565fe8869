#!/bin/bash
cd /app
ls -l bin
chmod u+x bin/*.sh
chmod 600 secret.env
stat -c '%a %n' bin/start.sh bin/stop.sh secret.env
bin/start.sh
